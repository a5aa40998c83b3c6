#!/usr/bin/env bash
# Retrains in a working copy that stays, on a volume, with the code of this image:
#   bash /cfpp/deploy/kuberay/retrain.sh /work/cfpp [--now]
# Code and params.yaml become the image's; what earlier runs made stays: .cfpp, dvc.lock, data, models, reports.
set -euo pipefail
image=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$1
shift
mkdir -p "$(dirname "$work")"
exec 9>"$work.lock"               # held until python ends: nobody changes the code under a run
flock --nonblock 9 || { echo "retrain: another pod is at work in $work" >&2; exit 4; }
test -d "$work/.git" || git clone --quiet "$image" "$work"
cd "$work"
git fetch --quiet "$image" HEAD
if test -f dvc.lock; then cp dvc.lock .cfpp-dvc.lock; fi
git reset --quiet --hard FETCH_HEAD
if test -f .cfpp-dvc.lock; then mv .cfpp-dvc.lock dvc.lock; fi
cp "$image/params.yaml" params.yaml
exec python -m pipelines.retrain "$@"

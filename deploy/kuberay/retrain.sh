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
if ! test -d "$work/.git"; then   # whole or not at all
  rm -rf "$work.partial"
  git clone --quiet "$image" "$work.partial"
  mv -T "$work.partial" "$work"
fi
cd "$work"
restore() { if test -f .cfpp-dvc.lock; then mv .cfpp-dvc.lock dvc.lock; fi; }
restore                           # of a pod that was killed in the lines that follow
find .git -name '*.lock' -delete  # of its git
git fetch --quiet "$image" HEAD
if test -f dvc.lock; then mv dvc.lock .cfpp-dvc.lock; fi
git reset --quiet --hard FETCH_HEAD
restore
cp "$image/params.yaml" params.yaml
exec python -m pipelines.retrain "$@"

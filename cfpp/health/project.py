"""Whether the project's folder has what its params name: faces, weights, storage, git and DVC."""

import configparser
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cfpp.config import Params, ParamsError, load_params
from cfpp.health.finding import Finding, ok, problem, warning
from cfpp.models.catalogue import (
    ARCFACE,
    CATALOGUE,
    LPIPS_SQUEEZE,
    LPIPS_VGG,
    MOBILEFACENET,
    RETINAFACE_MOBILE,
    RETINAFACE_RESNET50,
)
from cfpp.models.external import ExternalFile, ExternalFileError, find_external, identify, why_missing
from cfpp.storage import Place, StorageError, check_writable, names_under, place_of

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}

PATIENCE = 5.0  # seconds that a server may take to answer

# Set to these, the tools send statistics of use; the stages turn them off where nothing is set.
_SPEAKING = {
    "DVC_NO_ANALYTICS": ("0", "false", ""),
    "MLFLOW_DISABLE_TELEMETRY": ("0", "false", ""),
    "RAY_USAGE_STATS_ENABLED": ("1", "true"),
}


def check_params(path: Path) -> tuple[Finding, Params | None]:
    """params.yaml, and what it says where it can be read."""
    if not path.is_file():
        return problem("params", f"there is no {path}", "run this in the project's folder"), None
    try:
        params = load_params(path)
    except (ParamsError, OSError) as error:
        return problem("params", str(error), "mend it; params.yaml explains every key"), None
    return ok("params", f"{params.data.source} faces at {params.run.size} x {params.run.size}"), params


def check_data(params: Params, root: Path) -> tuple[Finding, int | None]:
    """The faces that the pipeline starts from, and how many there are where that is known."""
    data = params.data
    if data.source == "procedural":
        count = data.identities * data.shots
        return ok("faces", f"{count} procedural ones, which the shard stage draws"), count
    counts = {}
    for key, folder in (("data.folder", data.folder), ("data.test_folder", data.test_folder)):
        if not folder:
            continue
        try:
            place = _answering(place_of(folder, root))
            if isinstance(place, Path) and not place.is_dir():
                return problem(
                    "faces", f"{key}: {place} is no folder", f"make it, or name another in {key}"
                ), None
            names = names_under(place)
        except StorageError as error:
            return problem("faces", f"{key}: {error}", f"name a folder that can be read in {key}"), None
        counts[key] = sum(PurePosixPath(name).suffix.lower() in PICTURES for name in names)
        if not counts[key]:
            return problem("faces", f"{key}: {place} holds no picture", f"put faces there; see {key}"), None
    return ok("faces", ", ".join(f"{count} in {key}" for key, count in counts.items())), sum(counts.values())


def check_checkpoint(params: Params, root: Path) -> Finding:
    """What the prior is made from."""
    prior = params.prior
    if prior.kind == "folder":
        named = {f"prior.{name}": getattr(prior, name) for name in ("lq_folder", "id_folder", "gp_folder")}
    elif prior.source == "checkpoint":
        named = {"prior.checkpoint": prior.checkpoint}
    elif prior.source == "train" and prior.codebook.checkpoint:
        named = {"prior.codebook.checkpoint": prior.codebook.checkpoint}
    else:
        return ok("prior", "the embedded one" if prior.source == "embedded" else "trained from the faces")
    for key, value in named.items():
        if not (root / value).exists():
            return problem(
                "prior", f"{key}: {root / value} is not there", f"place it, or mend {key}; docs/priors.md"
            )
    return ok("prior", ", ".join(named.values()))


def check_storage(params: Params, root: Path) -> Finding:
    """Whether storage.root can be written to, by a small file that is removed again."""
    try:
        place = _answering(place_of(params.storage.root, root))
        missing = isinstance(place, Path) and not place.exists()
        above = next((up for up in place.parents if up.exists()), None) if isinstance(place, Path) else None
        check_writable(above if missing and above else place)
    except (StorageError, OSError) as error:
        return problem("storage", str(error), "mend storage.root in params.yaml, or the rights there")
    return ok("storage", f"{place} {'will be made' if missing else 'can be written to'}")


def check_weights(params: Params, root: Path, known: Sequence[ExternalFile] = CATALOGUE) -> list[Finding]:
    """The networks from elsewhere: which are good, damaged or missing, and whether the params need one.

    Args:
        known: every file that there could be.
    """
    folder = params.weights.root
    if not folder:
        found = [ok("weights", 'weights.root is "": none are used; metrics that need one are left out')]
        return found + _needed(params, "")
    place = root / folder
    if not place.is_dir():
        return [
            problem("weights", f"weights.root: {place} is no folder", 'make it, or set weights.root to ""')
        ]
    good, damaged, missing = [], [], []
    for name in dict.fromkeys(file.name for file in known):
        if not (place / name).is_file():
            missing.append(name)
            continue
        try:
            good.append(identify(place / name, known).name)
        except ExternalFileError:
            damaged.append(name)
    findings = []
    for name in damaged:
        public = any(file.url for file in known if file.name == name)
        remedy = (
            f"run `cfpp weights fetch {name}`" if public else "place it anew by hand, see docs/weights.md"
        )
        findings.append(problem("weights", f"{place / name}: damaged, or another file (sha256)", remedy))
    message = f"{len(good)} good in {place}"
    if missing:  # each of them can be done without, unless `_needed` says otherwise
        message += f", {len(missing)} not there; `cfpp weights list` says what each is for"
    findings.append(ok("weights", message))
    return findings if damaged else [*findings, *_needed(params, str(place))]


def check_detector(params: Params, root: Path) -> Finding:
    """Whether the faces of photographs can be found."""
    folder = params.weights.root and str(root / params.weights.root)
    detectors = (*RETINAFACE_RESNET50, *RETINAFACE_MOBILE)
    try:
        found = find_external(folder, detectors)
    except (ExternalFileError, ParamsError) as error:
        return problem("face detector", str(error), "see weights")
    if found is not None:
        return ok("face detector", found[1].label)
    message = "none: `cfpp restore` and `cfpp demo` take aligned faces only"
    if not folder:
        return ok("face detector", f"{message} while weights.root is empty (docs/weights.md)")
    return warning("face detector", message, f"run `cfpp weights fetch {RETINAFACE_MOBILE[0].name}`")


def _answering(place: Place) -> Place:
    """The place; where it lies on an S3 server of one's own, only if that answers, for a stage waits minutes.

    Raises:
        StorageError: it does not.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if isinstance(place, Path) or not endpoint:
        return place
    try:
        url = urlsplit(endpoint)
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise StorageError(f"{place}: AWS_ENDPOINT_URL {endpoint} does not answer: {error}") from error
    return place


def _needed(params: Params, folder: str) -> list[Finding]:
    """What a training would stop for."""
    tgrn, findings = params.train_tgrn, []
    backbones = {"squeeze": LPIPS_SQUEEZE, "vgg": LPIPS_VGG}
    wanted: list[tuple[str, Sequence[ExternalFile]]] = []
    if tgrn.metric_weight and tgrn.embedding in backbones:
        wanted.append((f"train_tgrn.embedding: {tgrn.embedding}", backbones[tgrn.embedding]))
    photographs = params.data.source == "folder"
    if tgrn.identity_weight and photographs and not tgrn.identity_network:
        wanted.append((f"train_tgrn.identity_weight: {tgrn.identity_weight:g}", (*ARCFACE, *MOBILEFACENET)))
    for key, files in wanted:
        if find_external(folder, files) is None:
            findings.append(problem("weights", key, why_missing(folder, files)))
    return findings


def check_git(root: Path) -> Finding:
    """Whether the project is a git repository with DVC set up, and both tools are there."""
    for tool in ("git", "dvc"):
        if shutil.which(tool) is None:
            return problem("git and DVC", f"{tool} is not on PATH", f"install {tool}, or activate .venv")
    inside = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    if inside.returncode:
        return problem(
            "git and DVC",
            f"{root} is no git repository with a commit, by which results are named",
            "run `git init && git add -A && git commit -m start`, or clone the project",
        )
    if not (root / ".dvc" / "config").is_file():
        return problem("git and DVC", f"{root / '.dvc' / 'config'} is missing", "run `dvc init`")
    return ok("git and DVC", f"commit {inside.stdout.strip()}")


def check_telemetry(root: Path, environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether DVC, MLflow or Ray may send statistics of use."""
    speaking = [
        f"{name}={environment[name]}"
        for name, values in _SPEAKING.items()
        if environment.get(name, "unset").lower() in values
    ]
    config = configparser.ConfigParser()
    config.read(root / ".dvc" / "config", encoding="utf-8")
    silent = config.get("core", "analytics", fallback="true").lower() == "false"
    if not silent and "DVC_NO_ANALYTICS" not in environment:
        speaking.append("core.analytics of .dvc/config")
    if speaking:
        return warning(
            "telemetry",
            f"on by {', '.join(speaking)}",
            "unset it; for DVC: `dvc config core.analytics false`",
        )
    return ok("telemetry", "off for DVC, MLflow and Ray in every stage and command")

"""Registers prior, DAM and TGRN as one version of the restorer, alias `challenger`.

python -m pipelines.register
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfpp.data.samples import SampleStore
from cfpp.errors import MendableError
from cfpp.evaluation.table import flat
from cfpp.lineage import lineage
from cfpp.models.face_detector import find_detector
from cfpp.registry.package import Registered, load_package, log_package, register
from cfpp.registry.provenance import part_tags
from cfpp.restoration.restorer import Restorer
from cfpp.storage import Place
from pipelines.session import Session, run_stage

log = logging.getLogger("pipelines.register")

ALIAS = "challenger"
MODELS = Path("models")
METRICS = Path("reports/metrics.json")
REPORT = Path("reports/registered.json")
CHECKED = 4  # pictures


class RegisterError(MendableError, RuntimeError):
    """The package does not restore as the models do, or there is nothing to register."""


def main() -> None:
    run_stage("register", work, ray=False)


def work(session: Session) -> None:
    register_restorer(session)


def register_restorer(session: Session) -> dict[str, Any]:
    """Package, register, verify; only then does the alias move. Returns what registered.json holds.

    Raises:
        RegisterError: the evaluation has not run, or the package restores differently.
    """
    from mlflow import MlflowClient

    params, root = session.params, session.root
    evaluation = read_evaluation(root / METRICS)
    tags = lineage(params, root) | {"parent_run": session.parent_run_id, "stage_run": session.run_id}
    tags |= {f"eval.{name}": f"{value:.6g}" for name, value in evaluation.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"  # as the package chooses
    restorer = Restorer.load(root / MODELS, device)
    tags |= part_tags(root / MODELS, restorer.parts)
    detector = detector_weights(restorer, params.weights.root)
    info = log_package(root / MODELS, restorer.parts, tags, detector)
    registered = register(info, params.mlflow.model_name, tags)
    client = MlflowClient()
    try:
        checked = verify(registered, restorer, held_out_faces(session.storage))
    except Exception:
        client.set_model_version_tag(registered.name, registered.version, "verified", "failed")
        raise
    client.set_model_version_tag(registered.name, registered.version, "verified", str(checked))
    client.set_registered_model_alias(registered.name, ALIAS, registered.version)
    record = {
        "name": registered.name,
        "version": registered.version,
        "alias": ALIAS,
        "model_uri": registered.uri,
        "model_id": registered.model_id,
        "run_id": session.run_id,
        "parent_run_id": session.parent_run_id,
        "verified_pictures": checked,
        "size": restorer.size,
        "parts": list(restorer.parts),
        "detector": None if detector is None else detector.name,
        "tags": tags,
    }
    (root / REPORT).parent.mkdir(exist_ok=True)
    (root / REPORT).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    session.log_artifact(root / REPORT)
    session.log_metrics(evaluation)
    log.info("%s version %s is the %s", registered.name, registered.version, ALIAS)
    return record


def read_evaluation(path: Path) -> dict[str, float]:
    """Means by name, as `out.psnr`, of what could be computed.

    Raises:
        RegisterError: there is no evaluation.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegisterError(f"{path}: not found; run the evaluate stage first") from None
    return {name: float(value) for name, value in flat(summary).items() if value is not None}


def detector_weights(restorer: Restorer, weights_root: str) -> Path | None:
    """The face detector's weights, which let the package take whole photographs, where there are any."""
    found = None if restorer.prior is None else find_detector(weights_root)
    if found is None:
        log.info("no face detector in weights.root: the package takes aligned faces only")
        return None
    return found[1]


def held_out_faces(storage: Place) -> dict[str, np.ndarray]:
    """A few faces of the test split, degraded and restored both ways: lq, id, gp, uint8 [B, S, S, 3]."""
    columns = ("lq", "id", "gp")
    store = SampleStore(storage, "test", columns)
    faces = [store.pictures(index) for index in range(min(CHECKED, len(store)))]
    return {name: np.stack([face[name] for face in faces]) for name in columns}


def verify(registered: Registered, restorer: Restorer, faces: dict[str, np.ndarray]) -> int:
    """Load the version back and compare it bit by bit with `restorer`; returns the number of faces.

    Raises:
        RegisterError: they differ.
    """
    if restorer.prior is None:
        inputs = np.stack([faces["id"], faces["gp"]], axis=1)
        expected = restorer.fuse(faces["id"], faces["gp"])
    else:
        inputs = faces["lq"]
        expected = restorer.restore(inputs)
    found = load_package(registered.uri).predict(inputs)
    if not np.array_equal(expected, found):
        raise RegisterError(f"{registered.uri} does not restore as {MODELS}/ does; the alias was not moved")
    return len(inputs)


if __name__ == "__main__":
    main()

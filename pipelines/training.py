"""What the training stages share: the run's name, its model folder, its curves and its figures."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cfpp.config import to_dict
from cfpp.lineage import git_commit
from cfpp.models.weights import Card, save_model
from cfpp.objectives.base import ObjectiveSpec
from cfpp.training.curves import Row, write_csv
from cfpp.training.faces import StoredFaces
from cfpp.training.job import TrainJob, run_name
from cfpp.training.ray_train import fit
from pipelines.session import Session

log = logging.getLogger(__name__)

RUNS = "runs"


def model_card(
    root: Path, spec: ObjectiveSpec, section: Any, data_sha256: str, run: str, perceptual: str
) -> Card:
    """The card of a model that ``spec`` trains; steps and metrics are known when it is trained."""
    config = {**spec.config, "training": {**to_dict(section), "perceptual": perceptual}}
    return Card(
        kind=spec.kind,
        config=config,
        steps=0,
        data_manifest_sha256=data_sha256,
        git_commit=git_commit(root),
        source=run,
    )


def train_one_phase(
    session: Session, spec: ObjectiveSpec, section: Any, *inputs: str, perceptual: str = "none"
) -> None:
    """Train one model with the engine; writes models/{kind}, its curves and its figures.

    Args:
        session: open, with Ray.
        spec: what is trained.
        section: the params behind it, with a ``train`` section.
        inputs: hashes of whatever else decides the weights.
        perceptual: name of the perceptual distance among its losses.
    """
    root, seed = session.root, session.params.run.seed
    data = StoredFaces(str(root.resolve()), flip=True)
    data_sha256 = data.sha256(spec)
    name = run_name(
        session.stage, [type(spec)], section, session.params.run, data_sha256, perceptual, *inputs
    )
    job = TrainJob(spec.kind, spec, section.train, data, seed)
    result = fit([job], name=name, storage=str(root.resolve() / RUNS), sink=session.sink)
    card = model_card(root, spec, section, data_sha256, name, perceptual)
    save(session, root / "models" / spec.kind, result.weights, card, result.steps, result.metrics)
    session.log_params({"perceptual": perceptual})
    report(session, {"steps": result.steps, "val": result.metrics}, result.curves)
    if result.images_per_second is not None:
        session.log_metrics({"images_per_second_mean": result.images_per_second})


def save(
    session: Session,
    folder: Path,
    weights: Mapping[str, Tensor],
    card: Card,
    steps: int,
    metrics: Mapping[str, float],
) -> None:
    """Write a model folder and attach its card to the stage's run."""
    written = save_model(folder, weights, replace(card, steps=steps, metrics=metrics))
    log.info("%s: %d parameters, %s", folder, written.parameters, dict(metrics))
    session.log_artifact(folder / "card.json")
    session.set_tags({"weights_from": card.source})


def report(session: Session, figures: Mapping[str, Any], curves: list[Row]) -> None:
    """Write reports/{stage}.json and reports/curves/{stage}.csv, which hold nothing that depends on time."""
    reports = session.root / "reports"
    curve_file = reports / "curves" / f"{session.stage}.csv"
    write_csv(curve_file, curves)
    text = json.dumps(figures, indent=2, sort_keys=True) + "\n"
    (reports / f"{session.stage}.json").write_text(text, encoding="utf-8")
    session.log_artifact(curve_file)


def absolute(root: Path, path: str) -> str:
    """A path of params.yaml as workers need it; "" stays "none"."""
    return str((root / path).resolve()) if path else ""

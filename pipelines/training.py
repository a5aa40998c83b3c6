"""What the training stages share: the run's name, its model folder, its curves and its figures."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cfpp.config import to_dict
from cfpp.lineage import git_commit
from cfpp.models.weights import CARD_FILE, Card, read_card, save_model
from cfpp.objectives.base import ObjectiveSpec
from cfpp.training.curves import Row, write_csv
from cfpp.training.faces import StoredFaces
from cfpp.training.job import TrainJob, TrainResult, run_name, training_seed
from cfpp.training.ray_train import fit
from pipelines.mirror import pull
from pipelines.session import Session

log = logging.getLogger(__name__)

RUNS = "runs"
MODELS = Path("models")


@dataclass(frozen=True)
class Trained:
    """A finished run and the model folder it left, runs/{run}/model, as every worker finds it."""

    result: TrainResult
    card: Card
    folder: str


def train_model(
    session: Session,
    spec: ObjectiveSpec,
    section: Any,
    *inputs: Any,
    label: str,
    data: StoredFaces,
    perceptual: str = "none",
    started_from: Mapping[str, Card] | None = None,
    prefix: str = "",
    first_step: int = 0,
) -> Trained:
    """Train one model with the engine, or go on with the run that all these name; Ray must run.

    Args:
        session: open, with Ray.
        spec: what is trained.
        section: the params behind it, with a ``train`` section.
        inputs: whatever else decides the weights.
        label: of the run.
        data: where batches come from.
        perceptual: name of the perceptual distance among its losses.
        started_from: cards of the models whose weights it begins with or learns from, by what they are.
        prefix, first_step: of its curves, where several runs share a stage.
    """
    root, params = session.root.resolve(), session.params
    origins = {name: card.sha256 for name, card in (started_from or {}).items()}
    data_sha256 = data.sha256(spec)
    run = run_name(label, type(spec), section, params.run, data_sha256, perceptual, origins, *inputs)
    job = TrainJob(
        name=label,
        spec=spec,
        params=section.train,
        data=data,
        seed=training_seed(params.run.seed, section.train.seed),
        prefix=prefix,
        first_step=first_step,
    )
    result = fit(job, name=run, storage=str(session.storage / RUNS), sink=session.sink)
    card = Card(
        kind=spec.kind,
        config={**spec.config, "training": {**to_dict(section), "perceptual": perceptual}},
        steps=result.steps,
        data_manifest_sha256=data_sha256,
        git_commit=git_commit(root),
        source=run,
        started_from=origins,
        metrics={name.removeprefix(prefix): value for name, value in result.metrics.items()},
    )
    model = Path(RUNS, run, "model")
    folder = root / model
    if session.elsewhere:  # a job's own folder has nothing of earlier runs
        pull(session.storage, root, [str(model)])
    if result.images_per_second is None and (folder / CARD_FILE).is_file():
        # Nothing was left to train: the commit is that of the training, not today's.
        card = replace(card, git_commit=read_card(folder).git_commit)
    card = save_model(folder, result.weights, card)
    return Trained(result, card, session.shared(model))


def train_one_model(
    session: Session,
    spec: ObjectiveSpec,
    section: Any,
    *inputs: Any,
    perceptual: str = "none",
    started_from: Mapping[str, Card] | None = None,
) -> None:
    """A stage that trains one model: writes models/{kind}, its curves and its figures. See `train_model`."""
    data = StoredFaces(str(session.storage), flip=True)
    trained = train_model(
        session,
        spec,
        section,
        *inputs,
        label=session.stage,
        data=data,
        perceptual=perceptual,
        started_from=started_from,
    )
    publish(session, session.root / MODELS / spec.kind, trained.result.weights, trained.card)
    session.log_params({"perceptual": perceptual})
    report(session, {"steps": trained.card.steps, "val": trained.card.metrics}, trained.result.curves)
    if trained.result.images_per_second is not None:
        session.log_speed({"images_per_second_mean": trained.result.images_per_second})


def publish(session: Session, folder: Path, weights: Mapping[str, Tensor], card: Card) -> None:
    """Write the stage's model folder and attach its card to the stage's run."""
    written = save_model(folder, weights, card)
    log.info("%s: %d parameters, %s", folder, written.parameters, dict(card.metrics))
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

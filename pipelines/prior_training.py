"""CodeFormer's three training stages, each a run of its own that starts from the one before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cfpp.config import to_dict
from cfpp.data.shards import DataError
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.official import read_checkpoint
from cfpp.models.weights import (
    Card,
    WeightsError,
    check_fit,
    check_trained,
    read_card,
    read_state,
    save_model,
)
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.objectives.fusion import FusionSpec
from cfpp.objectives.perceptual import perceptual_name
from cfpp.synthesis.codes import CodesSpec, codes_config_hash
from cfpp.synthesis.shards_job import process_shards
from cfpp.synthesis.tars import plan_from
from cfpp.training.curves import Row
from cfpp.training.faces import StoredFaces
from cfpp.training.job import TrainResult
from cfpp.training_params import NetworkParams
from pipelines.session import Session
from pipelines.training import RUNS, Trained, absolute, train_model

SHARDS = Path("data/shards")
CODES = Path("data/codes")


def train_prior(session: Session) -> tuple[Mapping[str, Tensor], Card, list[Row]]:
    """Train codebook, code prediction and fusion, or go on with them; Ray must run.

    A change of a stage's params leaves the stages before it be.

    Returns:
        The prior's weights, its card, and the curves of all three stages on one axis.
    """
    params, root, prior = session.params, session.root.resolve(), session.params.prior
    network, size, weights_root = prior.network, params.run.size, absolute(root, params.weights.root)
    perceptual = perceptual_name(weights_root)
    data = StoredFaces(str(session.storage), flip=True, degradation=params.degradation)

    if prior.codebook.checkpoint:
        codebook = _bring_in_codebook(session, absolute(root, prior.codebook.checkpoint), network, size)
    else:
        spec = CodebookSpec(prior.codebook, network, size, weights_root)
        codebook = _trained(session, "codebook", spec, prior.codebook, network, data=data, after=0)
    first = codebook.folder
    store_codes(session, CodesSpec(first, network, size, prior.code_prediction.train.use_gpu), codebook.card)
    prediction = _trained(
        session,
        "code_prediction",
        CodePredictionSpec(prior.code_prediction, network, size, weights_root, first),
        prior.code_prediction,
        network,
        params.degradation,
        data=data,
        after=codebook.result.steps,
        started_from={"codebook": codebook.card},
    )
    second = prediction.folder
    fusion = _trained(
        session,
        "fusion",
        FusionSpec(prior.fusion, prior.code_prediction, network, size, weights_root, first, second),
        prior.fusion,
        network,
        params.degradation,
        prior.code_prediction.feature_weight,
        prior.code_prediction.cross_entropy_weight,
        data=data,
        after=codebook.result.steps + prediction.result.steps,
        started_from={"codebook": codebook.card, "code_prediction": prediction.card},
    )
    stages = (codebook, prediction, fusion)
    training = {**to_dict(prior), "perceptual": perceptual}
    card = replace(
        fusion.card,
        config={**fusion.card.config, "training": training},
        metrics={name: value for stage in stages for name, value in stage.result.metrics.items()},
    )
    return fusion.result.weights, card, _on_one_axis(stages)


def store_codes(session: Session, spec: CodesSpec, codebook: Card) -> None:
    """Bring data/codes up to date: the codes of every train and val face in that codebook; Ray must run."""
    params, storage = session.params, session.storage
    report = process_shards(
        [task for task in plan_from(storage / SHARDS) if task.split != "test"],
        spec,
        storage / CODES,
        config_hash=codes_config_hash(codebook.sha256, spec),
        resources=replace(params.data.resources, gpus=float(spec.use_gpu)),
    )
    refused = report.manifest.refused()
    if refused:  # they would be missing from two stages of training
        raise DataError(
            f"{len(refused)} faces have no codes, first {refused[0].key}: {refused[0].reason}; "
            f"remove {SHARDS} and run the shard stage again"
        )


def _on_one_axis(stages: tuple[Trained, ...]) -> list[Row]:
    rows, before = [], 0
    for stage in stages:
        rows += [{**row, "step": row["step"] + before} for row in stage.result.curves]
        before += stage.result.steps
    return rows


def _trained(
    session: Session,
    label: str,
    spec: CodebookSpec | CodePredictionSpec | FusionSpec,
    section: object,
    *inputs: object,
    data: StoredFaces,
    after: int,
    started_from: Mapping[str, Card] | None = None,
) -> Trained:
    return train_model(
        session,
        spec,
        section,
        *inputs,
        label=label,
        data=data,
        perceptual=perceptual_name(spec.weights_root),
        started_from=started_from,
        prefix=f"{label}/",
        first_step=after,
    )


def _bring_in_codebook(session: Session, source: str, network: NetworkParams, image_size: int) -> Trained:
    """A stage 1 from elsewhere, as a model folder that every worker sees.

    Raises:
        WeightsError: missing, damaged, never trained, or not a stage 1 of this network.
    """
    path = Path(source)
    if path.is_dir():
        state, card = read_state(path), read_card(path)
    else:
        state, card = read_checkpoint(path)
    if card.kind != "vqautoencoder":
        raise WeightsError(f"{path}: holds a {card.kind}, not a vqautoencoder; see prior.codebook.checkpoint")
    check_trained(path, card)
    check_fit(path, VQAutoEncoder(network, image_size).state_dict(), state)
    model = Path(RUNS, "codebook-from-elsewhere", "model")
    metrics = {f"codebook/{name}": value for name, value in card.metrics.items()}
    result = TrainResult(weights=state, metrics=metrics, curves=[], steps=0)
    return Trained(result, save_model(session.root / model, state, card), session.shared(model))

"""The prior, CodeFormer: the embedded one, a checkpoint, or trained here in three stages: models/prior.

python -m pipelines.prior
"""

import csv
from dataclasses import replace
from pathlib import Path

import cfpp
from cfpp.config import Params, ParamsError, to_dict
from cfpp.models.official import read_checkpoint
from cfpp.models.prior import load_prior, network_of
from cfpp.models.weights import Card, WeightsError, read_card
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.objectives.fusion import FusionSpec
from cfpp.objectives.perceptual import perceptual_name
from cfpp.synthesis.codes import CodesSpec, codes_config_hash
from cfpp.synthesis.shards_job import process_shards
from cfpp.synthesis.tars import plan_from
from cfpp.training.curves import Row
from cfpp.training.faces import StoredFaces
from pipelines.session import Session, open_stage
from pipelines.training import absolute, publish, report, train_model

EMBEDDED = Path(cfpp.__file__).parent / "data" / "embedded" / "prior"
CURVES = "curves.csv"
PRIOR = Path("models/prior")
SHARDS = Path("data/shards")
CODES = Path("data/codes")


def main() -> None:
    with open_stage("prior", ray=lambda params: params.prior.source == "train") as session:
        if session.params.prior.source == "train":
            train(session)
        else:
            checkpoint = Path(absolute(session.root, session.params.prior.checkpoint))
            bring_in(session, EMBEDDED if session.params.prior.source == "embedded" else checkpoint)


def bring_in(session: Session, source: Path) -> None:
    """Check a trained prior, a model folder or a bare official checkpoint, and make it this project's."""
    params = session.params
    if not source.exists():
        raise WeightsError(f"{source}: not found; see prior.source and prior.checkpoint")
    if source == EMBEDDED and params.data.source == "procedural":
        _refuse_its_own_people(params, read_card(source))
    if source.is_dir():
        weights, card = load_prior(source).state_dict(), read_card(source)
    else:
        weights, card = read_checkpoint(source)
        if card.kind != "codeformer":
            raise WeightsError(f"{source}: holds a {card.kind} (stage 1 alone), not a codeformer")
    _, size = network_of(card.config)
    if size != params.run.size:
        raise ParamsError(
            f"{source}: a prior for faces of {size} x {size} pixels, but run.size is {params.run.size}; "
            f"set run.size to {size}, or prior.source to train"
        )
    publish(session, session.root / PRIOR, weights, card)
    curves = source / CURVES
    report(session, _figures(params, card), _read(curves) if curves.is_file() else [])


def train(session: Session) -> None:
    """Train codebook, code prediction and fusion, each from the one before; Ray must run.

    Each is a run of its own, named by what decides its weights: a change of the last leaves the others be.
    """
    params, root, prior = session.params, session.root.resolve(), session.params.prior
    network, size, weights_root = prior.network, params.run.size, absolute(root, params.weights.root)
    perceptual = perceptual_name(weights_root)
    data = StoredFaces(str(root), flip=True, degradation=params.degradation)

    codebook = train_model(
        session,
        CodebookSpec(prior.codebook, network, size, weights_root),
        prior.codebook,
        network,
        label="codebook",
        data=data,
        perceptual=perceptual,
        prefix="codebook/",
    )
    first = str(codebook.folder)
    store_codes(session, CodesSpec(first, network, size, prior.code_prediction.train.use_gpu), codebook.card)
    prediction = train_model(
        session,
        CodePredictionSpec(prior.code_prediction, network, size, weights_root, first),
        prior.code_prediction,
        network,
        params.degradation,
        label="code_prediction",
        data=data,
        perceptual=perceptual,
        started_from={"codebook": codebook.card},
        prefix="code_prediction/",
        first_step=prior.codebook.train.steps,
    )
    fusion = train_model(
        session,
        FusionSpec(
            prior.fusion, prior.code_prediction, network, size, weights_root, first, str(prediction.folder)
        ),
        prior.fusion,
        network,
        params.degradation,
        prior.code_prediction.feature_weight,
        prior.code_prediction.cross_entropy_weight,
        label="fusion",
        data=data,
        perceptual=perceptual,
        started_from={"codebook": codebook.card, "code_prediction": prediction.card},
        prefix="fusion/",
        first_step=prior.codebook.train.steps + prior.code_prediction.train.steps,
    )
    runs = (codebook, prediction, fusion)
    metrics = {name: value for run in runs for name, value in run.result.metrics.items()}
    training = {**to_dict(prior), "perceptual": perceptual}
    card = replace(fusion.card, config={**fusion.card.config, "training": training}, metrics=metrics)
    publish(session, root / PRIOR, fusion.result.weights, card)
    session.log_params({"perceptual": perceptual})
    report(session, _figures(params, card), [row for run in runs for row in run.result.curves])


def store_codes(session: Session, spec: CodesSpec, codebook: Card) -> None:
    """Bring data/codes up to date: the codes of every train and val face in that codebook; Ray must run."""
    params, root = session.params, session.root
    process_shards(
        [task for task in plan_from(root / SHARDS) if task.split != "test"],
        spec,
        root / CODES,
        config_hash=codes_config_hash(codebook.sha256, spec),
        workers=params.data.workers,
        use_gpu=spec.use_gpu,
        max_quarantine_ratio=0.0,  # a face without codes would be missing from two stages of training
    )


def _refuse_its_own_people(params: Params, card: Card) -> None:
    """People follow from the seed: with the prior's own, the test split would hold whom it was trained on."""
    if params.run.seed == card.config.get("people", {}).get("seed"):
        raise ParamsError(
            f"run.seed: {params.run.seed} draws the people whom the embedded prior knows; take another"
        )


def _figures(params: Params, card: Card) -> dict[str, object]:
    size = params.run.size
    return {"source": params.prior.source, "size": size, "steps": card.steps, "val": card.metrics}


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows]


if __name__ == "__main__":
    main()

"""The prior, CodeFormer: the embedded one, a checkpoint, or trained here in three phases: models/prior.

python -m pipelines.prior
"""

import csv
from dataclasses import replace
from pathlib import Path

import cfpp
from cfpp.config import Params, ParamsError
from cfpp.models.official import read_checkpoint
from cfpp.models.prior import load_prior, network_of
from cfpp.models.weights import Card, WeightsError, read_card
from cfpp.objectives.base import ObjectiveSpec
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.objectives.fusion import FusionSpec
from cfpp.objectives.perceptual import perceptual_name
from cfpp.training.curves import Row
from cfpp.training.faces import StoredFaces
from cfpp.training.job import Export, TrainJob, run_name
from cfpp.training.ray_train import fit
from pipelines.session import Session, open_stage
from pipelines.training import RUNS, absolute, model_card, report, save

EMBEDDED = Path(cfpp.__file__).parent / "data" / "embedded" / "prior"
CURVES = "curves.csv"
PRIOR = Path("models/prior")


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
    save(session, session.root / PRIOR, weights, card, card.steps, card.metrics)
    curves = source / CURVES
    report(session, _figures(params, card.steps, card.metrics), _read(curves) if curves.is_file() else [])


def train(session: Session) -> None:
    """Train codebook, code prediction and fusion as phases of one run, or go on with it; Ray must run."""
    params, root = session.params, session.root.resolve()
    data = StoredFaces(str(root), flip=True, degradation=params.degradation)
    prior, size, weights_root = params.prior, params.run.size, absolute(root, params.weights.root)
    codebook = CodebookSpec(prior.codebook, prior.network, size, weights_root)
    data_sha256 = data.sha256(codebook)
    inputs = (replace(prior, source="train", checkpoint=""), params.degradation, params.run)
    perceptual = perceptual_name(weights_root)
    specs = (CodebookSpec, CodePredictionSpec, FusionSpec)
    name = run_name("prior", specs, *inputs, perceptual, data_sha256)
    first, second = (str(root / RUNS / name / "phases" / phase) for phase in ("codebook", "code_prediction"))
    prediction = CodePredictionSpec(prior.code_prediction, prior.network, size, weights_root, first)
    fusion = FusionSpec(prior.fusion, prior.code_prediction, prior.network, size, weights_root, first, second)

    def export(folder: str, spec: ObjectiveSpec) -> Export:
        return Export(folder, model_card(root, spec, prior, data_sha256, name, perceptual))

    seed = params.run.seed
    jobs = [
        TrainJob("codebook", codebook, prior.codebook.train, data, seed, export(first, codebook)),
        TrainJob(
            "code_prediction", prediction, prior.code_prediction.train, data, seed, export(second, prediction)
        ),
        TrainJob("fusion", fusion, prior.fusion.train, data, seed),
    ]
    result = fit(jobs, name=name, storage=str(root / RUNS), sink=session.sink)
    card = model_card(root, fusion, prior, data_sha256, name, perceptual)
    save(session, root / PRIOR, result.weights, card, result.steps, result.metrics)
    session.log_params({"perceptual": perceptual})
    report(session, _figures(params, result.steps, result.metrics), result.curves)


def _refuse_its_own_people(params: Params, card: Card) -> None:
    """People follow from the seed: with the prior's own, the test split would hold whom it was trained on."""
    if params.run.seed == card.config.get("people", {}).get("seed"):
        raise ParamsError(
            f"run.seed: {params.run.seed} draws the people whom the embedded prior knows; take another"
        )


def _figures(params: Params, steps: int, metrics: object) -> dict[str, object]:
    return {"source": params.prior.source, "size": params.run.size, "steps": steps, "val": metrics}


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows]


if __name__ == "__main__":
    main()

"""The prior, CodeFormer: the embedded one, a checkpoint, or trained here in three stages: models/prior.

python -m pipelines.prior
"""

import csv
from pathlib import Path

import cfpp
from cfpp.config import Params, ParamsError
from cfpp.models.official import read_checkpoint
from cfpp.models.prior import load_prior, network_of
from cfpp.models.weights import Card, WeightsError, read_card
from cfpp.training.curves import Row
from pipelines.prior_training import train_prior
from pipelines.session import Session, run_stage
from pipelines.training import absolute, publish, report

EMBEDDED = Path(cfpp.__file__).parent / "data" / "embedded" / "prior"
CURVES = "curves.csv"
PRIOR = Path("models/prior")


def main() -> None:
    run_stage("prior", work, ray=lambda params: params.prior.source == "train")


def work(session: Session) -> None:
    if session.params.prior.source == "train":
        weights, card, curves = train_prior(session)
        publish(session, session.root / PRIOR, weights, card)
        session.log_params({"perceptual": card.config["training"]["perceptual"]})
        report(session, _figures(session.params, card), curves)
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
    _, size = network_of(card.config, source)
    # Under kind folder only its encoder's convolutions are used, and they take faces of any size.
    if size != params.run.size and params.prior.kind == "codeformer":
        raise ParamsError(
            f"{source}: a prior for faces of {size} x {size} pixels, but run.size is {params.run.size}; "
            f"set run.size to {size}, or prior.source to train"
        )
    publish(session, session.root / PRIOR, weights, card)
    curves = source / CURVES
    report(session, _figures(params, card), _read(curves) if curves.is_file() else [])


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

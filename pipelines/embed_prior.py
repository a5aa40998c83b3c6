"""Ship models/prior with the package, in half precision: the prior of `prior.source: embedded`.

cfpp profile embedded_prior && dvc repro prior && python -m pipelines.embed_prior
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from cfpp.config import load_params
from cfpp.models.prior import load_prior
from cfpp.models.weights import WeightsError, read_card, save_model
from pipelines.prior import CURVES, EMBEDDED, PRIOR

log = logging.getLogger(__name__)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    params = load_params()
    if params.data.source != "procedural":
        raise SystemExit("embed_prior: data.source is not procedural; only faces of nobody are shipped")
    try:
        card = read_card(PRIOR)
        people = {"seed": params.run.seed, "identities": params.data.identities, "shots": params.data.shots}
        card = replace(card, config={**card.config, "people": people})
        card = save_model(EMBEDDED, load_prior(PRIOR), card, dtype=torch.float16)
    except WeightsError as error:
        raise SystemExit(f"embed_prior: {error}; train it first: dvc repro prior") from error
    shutil.copyfile(Path("reports/curves/prior.csv"), EMBEDDED / CURVES)
    log.info("%s: %d parameters, sha256 %s", EMBEDDED, card.parameters, card.sha256)


if __name__ == "__main__":
    main()

"""Train TGRN, which puts the texture of I_warp on the identity of I_F: models/tgrn.

python -m pipelines.train_tgrn
"""

import logging

from cfpp.config import ParamsError, load_params
from cfpp.data.shards import DataError
from cfpp.models.weights import WeightsError, read_card
from cfpp.objectives.perceptual import perceptual_name
from cfpp.objectives.texture import TextureSpec
from cfpp.training.job import TrainingError
from pipelines.session import Session, stage_session
from pipelines.training import absolute, train_one_phase


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        params = load_params()
        with stage_session("train_tgrn", params, ray=True) as session:
            train_tgrn(session)
    except (ParamsError, DataError, WeightsError, TrainingError) as error:
        raise SystemExit(f"train_tgrn: {error}") from error


def train_tgrn(session: Session) -> None:
    """Train, or go on with the run that these params, data and prior name; Ray must run."""
    params, root = session.params, session.root
    prior = root / "models" / "prior"
    spec = TextureSpec(
        params=params.train_tgrn,
        size=params.run.size,
        prior_path=str(prior.resolve()),
        weights_root=absolute(root, params.weights.root),
        feather=params.pair.feather,
    )
    inputs = (read_card(prior).sha256, str(params.pair.feather))
    perceptual = perceptual_name(spec.weights_root)
    train_one_phase(session, spec, params.train_tgrn, *inputs, perceptual=perceptual)


if __name__ == "__main__":
    main()

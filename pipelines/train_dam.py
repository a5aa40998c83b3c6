"""Train DAM, which lays I_G on I_F: models/dam.

python -m pipelines.train_dam
"""

import logging

from cfpp.config import ParamsError, load_params
from cfpp.data.shards import DataError
from cfpp.objectives.alignment import AlignmentSpec
from cfpp.training.job import TrainingError
from pipelines.session import Session, stage_session
from pipelines.training import train_one_phase


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        params = load_params()
        with stage_session("train_dam", params, ray=True) as session:
            train_dam(session)
    except (ParamsError, DataError, TrainingError) as error:
        raise SystemExit(f"train_dam: {error}") from error


def train_dam(session: Session) -> None:
    """Train, or go on with the run that these params and data name; Ray must run."""
    params = session.params
    train_one_phase(session, AlignmentSpec(params.train_dam, params.run.size), params.train_dam)


if __name__ == "__main__":
    main()

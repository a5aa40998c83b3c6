"""Train DAM, which lays I_G on I_F: models/dam.

python -m pipelines.train_dam
"""

from cfpp.objectives.alignment import AlignmentSpec
from pipelines.session import Session, run_stage
from pipelines.training import train_one_model


def main() -> None:
    run_stage("train_dam", train_dam)


def train_dam(session: Session) -> None:
    """Train, or go on with the run that these params and data name; Ray must run."""
    params = session.params
    train_one_model(session, AlignmentSpec(params.train_dam, params.run.size), params.train_dam)


if __name__ == "__main__":
    main()

"""Train TGRN, which puts the texture of I_warp on the identity of I_F: models/tgrn.

python -m pipelines.train_tgrn
"""

from dataclasses import replace

from cfpp.models.weights import read_card
from cfpp.objectives.perceptual import perceptual_name
from cfpp.objectives.texture import TextureSpec
from pipelines.session import Session, run_stage
from pipelines.training import absolute, train_one_model


def main() -> None:
    run_stage("train_tgrn", train_tgrn)


def train_tgrn(session: Session) -> None:
    """Train, or go on with the run that these params, data and prior name; Ray must run."""
    params, root = session.params, session.root
    prior = root / "models" / "prior"
    network = absolute(root, params.train_tgrn.identity_network)
    spec = TextureSpec(
        params=replace(params.train_tgrn, identity_network=network),
        size=params.run.size,
        prior_path=session.shared("models/prior"),
        weights_root=absolute(root, params.weights.root),
        procedural=params.data.source == "procedural",
        prior_kind=params.prior.kind,
        feather=params.pair.feather,
    )
    train_one_model(
        session,
        spec,
        params.train_tgrn,
        params.pair.feather,
        spec.identity_name,
        perceptual=perceptual_name(spec.weights_root),
        started_from={"prior": read_card(prior)},
    )


if __name__ == "__main__":
    main()

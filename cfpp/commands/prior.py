"""`cfpp prior`: exchange priors and faces with the public CodeFormer code and other restorers."""

import argparse
from pathlib import Path
from typing import Any

from cfpp.config import load_params


def add_parser(commands: Any) -> None:
    """Add `prior` with its directions to the sub-parsers of argparse."""
    prior = commands.add_parser("prior", help="exchange priors with the public CodeFormer code")
    directions = prior.add_subparsers(dest="direction", required=True)
    incoming = directions.add_parser("import", help="make a model folder of an official checkpoint")
    incoming.add_argument("file", type=Path, help="codeformer.pth, or a stage-1 checkpoint")
    incoming.add_argument(
        "out",
        type=Path,
        nargs="?",
        help="folder to write; default: models/codeformer, of stage 1 models/vqautoencoder",
    )
    incoming.set_defaults(run=_import_prior)
    inputs = directions.add_parser("inputs", help="write the degraded faces that another prior is to restore")
    inputs.add_argument("out", type=Path, help="folder to write {key}.{variant}.png to")
    inputs.set_defaults(run=_prior_inputs)
    outgoing = directions.add_parser("export", help="write a prior in the official layout")
    outgoing.add_argument("file", type=Path, help=".pth to write")
    outgoing.add_argument("--prior", type=Path, default=Path("models/prior"), help="folder of the prior")
    outgoing.set_defaults(run=_export_prior)


def _import_prior(options: argparse.Namespace) -> None:
    from cfpp.models.official import import_checkpoint

    folder, card = import_checkpoint(options.file, options.out)
    print(f"{folder}: a {card.kind} of {card.parameters:,} parameters, from {card.source}")


def _prior_inputs(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from cfpp.data.pictures import decode, encode_png
    from cfpp.data.shards import read_shard
    from cfpp.storage import place_of
    from cfpp.synthesis.degraded import degrader
    from cfpp.synthesis.tars import plan_from

    params = load_params()
    maker = degrader(params)
    options.out.mkdir(parents=True, exist_ok=True)
    count = 0
    for task in tqdm(plan_from(place_of(params.storage.root) / "data/shards"), unit="shard"):
        with task.opened() as local:
            for key, members in read_shard(Path(local.source), task.input_sha256):
                for item in maker.degrade(key, decode(members["hq.png"]), task.split):
                    (options.out / f"{item.name}.png").write_bytes(encode_png(item.picture))
                    count += 1
    print(f"{options.out}: {count} degraded faces; restore them under the same names")


def _export_prior(options: argparse.Namespace) -> None:
    from cfpp.models.official import export_checkpoint

    print(f"{options.file}: {export_checkpoint(options.prior, options.file)} tensors under params_ema")

"""`cfpp`: the small commands beside the pipeline.

cfpp profile NAME            merge profiles/NAME.yaml into params.yaml
cfpp faces OUT               draw a contact sheet of the embedded faces
cfpp restore OUT IN [IN ...] restore aligned faces with the trained models
cfpp prior inputs OUT        write the degraded faces that another prior is to restore
cfpp prior import FILE [OUT] make a model folder of an official CodeFormer checkpoint
cfpp prior export FILE       write models/prior as a checkpoint that the public CodeFormer code loads
cfpp verify                  compare every byte of data/ with the manifests
cfpp verify --absent KEY ... prove that nothing names a face any more
cfpp lineage KEY             follow a face from its source to the models that learnt from it
cfpp lineage --model VERSION walk from a model version back to its data
"""

import argparse
import glob
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cfpp.config import load_params
from cfpp.errors import MendableError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="cfpp", description="CodeFormer++ pipelines")
    commands = parser.add_subparsers(dest="command", required=True)

    profile = commands.add_parser("profile", help="merge a profile into params.yaml")
    profile.add_argument("name", help="name of a file in profiles/, or a path")
    profile.set_defaults(run=_profile)

    faces = commands.add_parser("faces", help="draw a contact sheet of the embedded faces")
    faces.add_argument("out", type=Path, help="picture to write (.png or .jpg)")
    faces.add_argument("--rows", type=int, default=5, help="shots of one identity")
    faces.add_argument("--columns", type=int, default=8, help="identities")
    faces.add_argument("--size", type=int, default=192, help="side of one face, pixels")
    faces.add_argument("--seed", type=int, default=0)
    faces.set_defaults(run=_faces)

    restore = commands.add_parser("restore", help="restore aligned faces with models/")
    restore.add_argument("out", type=Path, help="folder to write to")
    restore.add_argument("inputs", type=Path, nargs="+", help="aligned face pictures")
    restore.add_argument(
        "--gp",
        type=Path,
        help="folder of I_G by the inputs' names, which are then I_F (prior.kind: folder)",
    )
    restore.add_argument("--models", type=Path, default=Path("models"), help="folder of prior, dam and tgrn")
    restore.set_defaults(run=_restore)

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

    check = commands.add_parser("verify", help="compare data/ with its manifests, or prove a face gone")
    check.add_argument("--absent", nargs="+", metavar="KEY", help="look for these keys instead, everywhere")
    check.set_defaults(run=_verify)

    lineage = commands.add_parser("lineage", help="follow a face to the models, or a model to its data")
    start = lineage.add_mutually_exclusive_group(required=True)
    start.add_argument("key", nargs="?", help="of a face")
    start.add_argument("--model", metavar="VERSION", help="number, alias, or models:/NAME@ALIAS")
    lineage.set_defaults(run=_lineage)

    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        options.run(options)
    except (MendableError, OSError) as error:  # what is wrong with a file or a disk can be mended, too
        print(f"cfpp {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _profile(options: argparse.Namespace) -> None:
    from cfpp.profiles import apply_profile

    path = Path(options.name) if options.name.endswith(".yaml") else Path("profiles") / f"{options.name}.yaml"
    load_params()  # a broken params.yaml is reported as such, not as the profile's fault
    for key in apply_profile(path, Path("params.yaml")):
        print(f"changed {key}")


def _faces(options: argparse.Namespace) -> None:
    from cfpp.data.pictures import save
    from cfpp.data.procedural.sheet import contact_sheet

    save(options.out, contact_sheet(options.seed, options.rows, options.columns, options.size))


def _restore(options: argparse.Namespace) -> None:
    import numpy as np
    from tqdm import tqdm

    from cfpp.data.pictures import PictureError, decode_photo, encode_png
    from cfpp.restore import RestoreError, Restorer

    uses = Counter(path.stem for path in options.inputs)
    shared = [stem for stem, count in uses.items() if count > 1]
    if shared:
        raise MendableError(f"several inputs would be written to {options.out / shared[0]}.png; rename them")
    restorer = Restorer.load(options.models)
    options.out.mkdir(parents=True, exist_ok=True)

    def read(path: Path) -> np.ndarray:
        try:
            return np.stack([decode_photo(path.read_bytes())])
        except (PictureError, OSError) as error:
            raise MendableError(f"{path}: {error}") from error

    for path in tqdm(options.inputs, unit="face"):
        try:
            if options.gp is None:
                [restored] = restorer.restore(read(path))
            else:
                [restored] = restorer.fuse(read(path), read(_same_stem(options.gp, path)))
        except RestoreError as error:
            raise MendableError(f"{path}: {error}") from error
        (options.out / f"{path.stem}.png").write_bytes(encode_png(restored))


def _same_stem(folder: Path, path: Path) -> Path:
    """The picture in `folder` that is called like `path`, whatever its suffix."""
    found = [other for other in folder.glob(f"{glob.escape(path.stem)}.*") if other.stem == path.stem]
    if len(found) != 1:
        raise MendableError(f"{folder}: holds {len(found)} pictures called {path.stem}, expected one")
    return found[0]


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


def _verify(options: argparse.Namespace) -> None:
    if options.absent:
        _search(options.absent)
        return
    from cfpp.audit.verify import verify
    from cfpp.storage import place_of

    params = load_params()
    outcome = verify(place_of(params.storage.root), params.prior)
    for finding in outcome.findings:
        print(finding)
    for name, tally in outcome.tallies.items():
        print(
            f"{name}: {tally.shards} sound shards, {tally.keys} keys, "
            f"{tally.quarantined} quarantined, {tally.bytes:,} bytes"
        )
    if outcome.findings:
        raise MendableError(f"{len(outcome.findings)} findings, see above")
    print("every byte is as its manifest says")


def _search(keys: Sequence[str]) -> None:
    from cfpp.audit.absence import search

    outcome = search(load_params(), Path.cwd(), keys)
    for name, count in outcome.searched.items():
        print(f"searched {name}: {count} files")
    for line in outcome.unread:
        print(line)
    for key, places in outcome.findings.items():
        alike = ", ".join(sorted(outcome.alike[key]))
        verdict = f"unproven: {alike} may be this face; ask for the key itself" if alike else "absent"
        print(f"{key}: {f'still in {len(places)} files' if places else verdict}")
        for place in places:
            print(f"  {place}")
    if outcome.unread:
        raise MendableError(f"{len(outcome.unread)} places cannot be looked through, see above")
    if held := [key for key, places in outcome.findings.items() if places or outcome.alike[key]]:
        raise MendableError(f"{', '.join(held)}: not proven gone, see above")


def _lineage(options: argparse.Namespace) -> None:
    from cfpp.registry.walk import walk_face, walk_model

    params, root = load_params(), Path.cwd()
    lines = walk_face(params, root, options.key) if options.key else walk_model(params, root, options.model)
    for heading, text in lines:
        print(f"{heading:<15} {text}")


if __name__ == "__main__":
    sys.exit(main())

"""`cfpp restore`: aligned faces through the trained models."""

import argparse
import glob
from collections import Counter
from pathlib import Path
from typing import Any

from cfpp.errors import MendableError


def add_parser(commands: Any) -> None:
    """Add `restore` to the sub-parsers of argparse."""
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

"""The way back: makes the champion before the present one the champion again.

python -m pipelines.rollback --reason TEXT [--to VERSION]

The version is opened first, every weight checked: one that cannot serve is refused, and nothing moves.
Another rollback goes one further back, never to a version that was rolled back from. Exit code: 0, done; 2,
wrong options; 1, not done, and the last line says why.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cfpp.config import Params, load_params
from cfpp.errors import MendableError
from cfpp.registry.acts import Act
from cfpp.registry.champions import Champions
from cfpp.registry.provenance import RegistryError
from cfpp.registry.restorers import open_restorer

log = logging.getLogger("pipelines.rollback")


def roll_back(params: Params, root: Path, *, reason: str, to: str = "") -> Act:
    """Make an earlier champion the champion again, if it can be opened.

    Args:
        root: of the project.
        reason: recorded.
        to: number of an earlier champion, rather than the one before.

    Raises:
        RegistryError: there is none, its files are gone or damaged, or the registry does not answer; the
            champion is as it was.
    """
    name = params.mlflow.model_name

    def check(number: str) -> None:
        try:
            open_restorer(f"models:/{name}/{number}", params.mlflow, root)
        except MendableError as error:
            raise RegistryError(
                f"{error}; the champion stays. --to goes to an earlier one: see cfpp registry history"
            ) from error

    return Champions.open(params.mlflow, root).roll_back(why=reason, check=check, to=to)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.rollback", description=__doc__)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; recorded")
    parser.add_argument("--to", default="", metavar="VERSION", help="number of an earlier champion")
    options = parser.parse_args(arguments)
    if not options.reason.strip():
        parser.error("--reason: say why")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        act = roll_back(load_params(), Path.cwd(), reason=options.reason.strip(), to=options.to)
    except (MendableError, OSError) as error:  # what is wrong with a disk can be mended, too
        raise SystemExit(f"rollback: {error}") from error
    log.info("version %s is the champion again, in place of %s", act.after, act.before or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())

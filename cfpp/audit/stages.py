"""The stage folders under data/, which one is made from which, and the reading that audits of them share."""

from dataclasses import dataclass
from pathlib import Path

from cfpp.data.manifest import MANIFEST_FILE, QUARANTINE_FILE, SPLITS, Manifest
from cfpp.data.shards import DataError
from cfpp.storage import Place

DATA = Path("data")


@dataclass(frozen=True)
class Stage:
    """A folder of shards.

    Attributes:
        folder: its name under data/.
        made_by: the stage of dvc.yaml that writes it.
        source: the folder whose shards it is made from, number by number; "" for the first.
        splits: of which it holds shards.
    """

    folder: str
    made_by: str
    source: str
    splits: tuple[str, ...] = SPLITS

    @property
    def name(self) -> str:
        """As a person calls it."""
        return (DATA / self.folder).as_posix()

    @property
    def again(self) -> str:
        """The command that makes what is missing."""
        return f"dvc repro -f -s {self.made_by}"

    def place(self, storage: Place) -> Place:
        """Where it lies."""
        return storage / DATA / self.folder

    def manifest(self, storage: Place) -> Manifest:
        """Its tables; empty when it has none.

        Raises:
            DataError: one of them is damaged, or has other columns.
        """
        try:
            return Manifest.load(self.place(storage))
        except TypeError as error:
            tables = f"{MANIFEST_FILE} or {QUARANTINE_FILE}"
            raise DataError(
                f"{self.place(storage)}: {tables} has not a manifest's columns: {error}"
            ) from None


STAGES = (
    Stage("shards", "shard", ""),
    Stage("codes", "prior", "shards", ("train", "val")),
    Stage("restored", "synthesize", "shards"),
    Stage("pairs", "pair", "restored"),
)


def fault_of(error: Exception, path: Place) -> str:
    """What an error says, on one line, without the name of the file or copy that was read."""
    text = " ".join(str(error).split())
    return text.removeprefix(f"{path}: ")

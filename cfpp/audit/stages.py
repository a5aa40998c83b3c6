"""The stage folders under data/, which one is made from which, and the reading that audits of them share."""

from dataclasses import dataclass
from pathlib import Path

from cfpp.config import PriorParams
from cfpp.data.manifest import SPLITS, Manifest
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

    def cure(self, prior: PriorParams, first: str = "") -> str:
        """What to do about a fault: `first`, such as "remove it and", and the command that mends the rest."""
        return self.stale(prior) or f"{first} run dvc repro -f -s {self.made_by}".strip()

    def place(self, storage: Place) -> Place:
        """Where it lies."""
        return storage / DATA / self.folder

    def manifest(self, storage: Place) -> Manifest:
        """Its tables; empty when it has none.

        Raises:
            ManifestError: one of them is damaged, or has other columns.
        """
        return Manifest.load(self.place(storage))

    def stale(self, prior: PriorParams) -> str:
        """What to do about its files where these params have no stage that writes them; else ""."""
        if self.folder == "codes" and prior.source != "train":
            return f"remove {self.name}: no prior is trained here now (prior.source)"
        return ""


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

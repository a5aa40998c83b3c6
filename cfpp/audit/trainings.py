"""The trainings that this project knows, by the cards of their models, and the data that each has read."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

from cfpp.audit.stages import STAGES, fault_of
from cfpp.data.fingerprint import fingerprint
from cfpp.models.weights import CARD_FILE, Card, WeightsError, read_card
from cfpp.storage import Place, names_under, reading

log = logging.getLogger(__name__)


_CARDS = {"models": f"/*/{CARD_FILE}", "runs": f"/*/model/{CARD_FILE}"}


@dataclass(frozen=True)
class Trained:
    """A model within reach.

    Attributes:
        folder: where it lies; relative to the project, or a place of the storage.
        card: what it says of itself.
        is_part: whether it lies under models/.
    """

    folder: str
    card: Card
    is_part: bool


def trained_models(root: Path, storage: Place) -> list[Trained]:
    """Every model under models/ and every one that a run left under runs/, in the project and in the storage
    if that is elsewhere; the same weights once.

    Raises:
        StorageError: the storage does not answer.
    """
    root, found = root.resolve(), dict[str, Trained]()
    for base in dict.fromkeys((root, storage)):
        for under, pattern in _CARDS.items():
            for name in map(PurePosixPath, names_under(base / under)):
                if not PurePosixPath("/", name).match(pattern):
                    continue
                place = base / under / str(name)
                with reading(place) as path:
                    try:
                        card = read_card(path.parent)
                    except WeightsError as error:
                        log.warning("%s: %s", place, fault_of(error, path))
                        continue
                folder = Path(under, name).parent
                shown = folder.as_posix() if base == root else str(base / folder)
                found.setdefault(card.sha256, Trained(shown, card, under == "models"))
    return list(found.values())


def origins(card: Card, known: Iterable[Trained]) -> dict[str, Trained | str]:
    """The models that a training began with, by what they are; those not within reach by their sha256."""
    by_sha256 = {model.card.sha256: model for model in known}
    return {name: by_sha256.get(sha256, sha256) for name, sha256 in card.started_from.items()}


def data_identities(storage: Place) -> dict[str, tuple[str, ...]]:
    """What cards say of a training on the data that lies here now: that identity, and the folders it read.

    A card's identity is over the manifests behind its columns (`cfpp.training.faces`), which are those of
    data/shards and of any of the later stages.

    Raises:
        DataError: a manifest is damaged.
    """
    shas = {
        stage.folder: manifest.sha256() for stage in STAGES if (manifest := stage.manifest(storage)).shards
    }
    if STAGES[0].folder not in shas:
        return {}
    first, *later = shas
    subsets = (subset for size in range(len(later) + 1) for subset in combinations(later, size))
    return {
        fingerprint({name: shas[name] for name in (first, *subset)}): (first, *subset) for subset in subsets
    }

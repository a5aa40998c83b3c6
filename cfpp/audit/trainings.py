"""The trainings that this project knows, by the cards of their models, and the data that each has read."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from cfpp.audit.stages import STAGES
from cfpp.data.fingerprint import fingerprint
from cfpp.models.weights import Card, WeightsError, read_card
from cfpp.storage import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A model on this disk: its folder, relative to the project, and its card."""

    folder: str
    card: Card


def trained_models(root: Path) -> list[Trained]:
    """Every model under models/ and every one that a run left under runs/; the same weights once."""
    cards = [*sorted(root.glob("models/*/card.json")), *sorted(root.glob("runs/*/model/card.json"))]
    found: dict[str, Trained] = {}
    for path in cards:
        try:
            card = read_card(path.parent)
        except WeightsError as error:
            log.warning("%s", error)
            continue
        found.setdefault(card.sha256, Trained(path.parent.relative_to(root).as_posix(), card))
    return list(found.values())


def origins(card: Card, known: Iterable[Trained]) -> dict[str, Trained | str]:
    """The models that a training began with, by what they are; those not on this disk by their sha256."""
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

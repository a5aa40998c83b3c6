"""Full training state on disk: written whole or not at all, read without running code."""

from pathlib import Path
from typing import Any, Protocol

import torch

from cfpp.files import replacing

State = dict[str, Any]
STATE_FILE = "state.pt"


class CheckpointStore(Protocol):
    """Where the engine keeps its state."""

    def load(self) -> State | None:
        """The newest complete state, on the CPU, or None; the same on every rank."""
        ...

    def save(self, state: State | None, name: str, metrics: dict[str, float]) -> None:
        """Keep a state. Every rank calls it equally often; ``state`` is None on all but rank 0."""
        ...


class FolderCheckpoints:
    """Checkpoints ``{name}.pt`` in a local folder, for one worker without Ray.

    Args:
        folder: made when needed.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def load(self) -> State | None:
        found = sorted(self.folder.glob("*.pt"))
        return read_state(found[-1]) if found else None

    def save(self, state: State | None, name: str, metrics: dict[str, float]) -> None:
        if state is None:
            return
        write_state(state, self.folder / f"{name}.pt")
        for old in sorted(self.folder.glob("*.pt"))[: -self.keep]:
            old.unlink()


def checkpoint_name(step: int) -> str:
    """Sorts by steps done."""
    return f"step{step:08d}"


def write_state(state: State, path: Path) -> None:
    """`torch.save`, whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as stream:
        torch.save(state, stream)


def read_state(path: Path) -> State:
    """A state that `write_state` wrote, on the CPU."""
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state

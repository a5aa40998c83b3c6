"""How far a run is, for whoever watches it."""

import logging
import time
from typing import Any, Protocol

log = logging.getLogger(__name__)

EVERY = 15.0  # seconds


class Bar(Protocol):
    """What the engine needs of a progress bar; tqdm's are such."""

    def update(self, n: int) -> Any: ...
    def set_description(self, desc: str) -> Any: ...
    def close(self) -> Any: ...


class Lines:
    """A bar for logs: a line now and then, where a moving bar would leave thousands.

    Args:
        total: steps.
        desc: what is trained.
    """

    def __init__(self, total: int, desc: str) -> None:
        self.total, self.done, self.text, self.last = total, 0, desc, time.monotonic()

    def update(self, n: int) -> None:
        """``n`` more steps are done."""
        self.done += n
        if time.monotonic() - self.last >= EVERY:
            self._write()

    def set_description(self, desc: str) -> None:
        """Say this from now on."""
        self.text = desc

    def close(self) -> None:
        """The last line."""
        self._write()

    def _write(self) -> None:
        self.last = time.monotonic()
        log.info("%s: step %d of %d", self.text, self.done, self.total)

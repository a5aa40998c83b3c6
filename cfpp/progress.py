"""How far a long job is, for whoever watches it: a bar on a terminal, lines in a log."""

import logging
import sys
import time
from typing import Any, Protocol

log = logging.getLogger(__name__)

EVERY = 15.0  # seconds


class Bar(Protocol):
    """What our jobs need of a progress bar; tqdm's are such."""

    def update(self, n: int) -> Any: ...
    def set_description(self, desc: str) -> Any: ...
    def set_postfix_str(self, s: str, refresh: bool) -> Any: ...
    def close(self) -> Any: ...


def progress_bar(total: int, desc: str, unit: str) -> Bar:
    """A moving bar where somebody looks at a terminal, else `Lines`."""
    if not sys.stderr.isatty():
        return Lines(total, desc, unit)
    from tqdm import tqdm

    bar: Bar = tqdm(total=total, desc=desc, unit=unit)
    return bar


class Lines:
    """A bar for logs: a line now and then, where a moving bar would leave thousands.

    Args:
        total: units of work.
        desc: what is done.
        unit: what the work is counted in.
    """

    def __init__(self, total: int, desc: str, unit: str = "step") -> None:
        self.total, self.unit, self.text, self.postfix = total, unit, desc, ""
        self.done = self.before = 0
        self.start = self.last = time.monotonic()

    def update(self, n: int) -> None:
        """``n`` more units are done."""
        if n > 1 and not self.done:  # where an earlier run ended: done, but not at this one's rate
            self.before = n
        self.done += n
        if time.monotonic() - self.last >= EVERY:
            self._write()

    def set_description(self, desc: str) -> None:
        """Say this from now on."""
        self.text = desc

    def set_postfix_str(self, s: str, refresh: bool = False) -> None:
        """Say this behind the count."""
        self.postfix = s

    def close(self) -> None:
        """The last line."""
        self._write()

    def _write(self) -> None:
        self.last = time.monotonic()
        rate = (self.done - self.before) / max(self.last - self.start, 1e-9)
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        more = f", {self.postfix}" if self.postfix else ""
        log.info("%s: %s %d of %d, %.2f/s%s%s", self.text, self.unit, self.done, self.total, rate, left, more)

"""An instrument that is not there. It is reported with its reason; it never becomes 0 and never vanishes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unavailable:
    """Stands in for an instrument: why the figures that need it cannot be computed."""

    reason: str

"""Where rank 0 sends figures and pictures while it trains."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class MetricSink(Protocol):
    """Takes figures and pictures; made inside the worker."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Figures at a step."""
        ...

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """A picture uint8 [H, W, 3] RGB at a step."""
        ...


class SinkSpec(Protocol):
    """Picklable; says how to make the sink."""

    def open(self) -> MetricSink:
        """The sink, in the process that calls."""
        ...


class Silent:
    """A sink, and its own spec, that keeps nothing."""

    def open(self) -> "Silent":
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        pass


def as_picture(tensor: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a tensor [3, H, W] in [-1, 1]; values beyond are clamped."""
    scaled = ((tensor.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    picture: NDArray[np.uint8] = scaled.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture

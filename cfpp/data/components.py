"""Where the facial components are on an aligned face: a feathered mask about the five-point template.

Aligned faces have their eyes, nose and mouth within a few pixels of the FFHQ template (method.md, section 2),
so boxes with rounded corners about it cover brows, eyes, nose and mouth with no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEMPLATE_512: NDArray[np.float64] = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]
)
"""FFHQ five-point template, (x, y) pixels of a 512 x 512 face: eyes, nose tip, mouth corners."""


@dataclass(frozen=True)
class Component:
    """A box with round corners on a 512 x 512 face, pixels.

    Attributes:
        name: what it covers.
        center: (x, y) of the middle.
        half: half width and half height.
        radius: of the corners.
    """

    name: str
    center: tuple[float, float]
    half: tuple[float, float]
    radius: float


def components() -> tuple[Component, ...]:
    """Eyes with brows, nose and mouth, placed by the template.

    An eye box reaches further up than down, to take in the brow; the nose box runs from between the eyes to
    below the tip; the mouth box leaves room for an open mouth.
    """
    left, right, nose, corner_left, corner_right = TEMPLATE_512
    mouth = (corner_left + corner_right) / 2
    bridge = (left + right) / 2
    return (
        Component("eye and brow, left", (left[0] - 2, left[1] - 14), (58, 50), 28),
        Component("eye and brow, right", (right[0] + 2, right[1] - 14), (58, 50), 28),
        Component(
            "nose", (nose[0], (bridge[1] + nose[1] + 26) / 2), (42, (nose[1] + 26 - bridge[1]) / 2), 24
        ),
        Component("mouth", (mouth[0], mouth[1] + 3), (74, 42), 34),
    )


def component_mask(size: int, feather: float) -> NDArray[np.float32]:
    """M of I_AP = M I_F + (1 - M) I_warp: 1 on the components, 0 elsewhere.

    Args:
        size: side of the face, pixels.
        feather: width of the edge as a share of the side; half of it lies inside the outline. 0 = hard.

    Returns:
        [size, size] in [0, 1].

    Raises:
        ValueError: size below 1 or a negative feather.
    """
    if size < 1 or feather < 0:
        raise ValueError(f"component_mask: size {size}, feather {feather}; expected size >= 1, feather >= 0")
    centers = (np.arange(size, dtype=np.float64) + 0.5) * (512 / size) - 0.5
    outside = np.min([_distance(part, centers[None, :], centers[:, None]) for part in components()], axis=0)
    width = feather * 512
    ramp = 0.5 - outside / width if width > 0 else (outside <= 0).astype(np.float64)
    ramp = np.clip(ramp, 0.0, 1.0)
    # A smooth step: a straight ramp leaves visible creases where it starts and ends.
    mask: NDArray[np.float32] = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return mask


def _distance(part: Component, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance to the outline, pixels of a 512 face; negative inside."""
    qx = np.abs(x - part.center[0]) - (part.half[0] - part.radius)
    qy = np.abs(y - part.center[1]) - (part.half[1] - part.radius)
    beyond = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    distance: NDArray[np.float64] = beyond + np.minimum(np.maximum(qx, qy), 0) - part.radius
    return distance

"""Many faces on one sheet, to look at."""

import numpy as np

from cfpp.data.procedural.render import render


def contact_sheet(seed: int, rows: int, columns: int, size: int) -> np.ndarray:
    """Faces side by side: a column is a person, a row a shot.

    Args:
        seed: of the faces.
        rows: shots of each person.
        columns: people, numbered from 0.
        size: side of one face, pixels.

    Returns:
        uint8 [rows * size, columns * size, 3], RGB.
    """
    lines = [
        np.concatenate([render(seed, identity, shot, size).picture for identity in range(columns)], 1)
        for shot in range(rows)
    ]
    return np.concatenate(lines, 0)

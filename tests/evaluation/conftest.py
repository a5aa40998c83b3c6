"""Faces for the evaluation's tests."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_faces(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """24 aligned photographs, uint8 [24, 512, 512, 3] RGB, and their five landmarks [24, 5, 2]."""
    with (shared / "faces/manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("test/")][:24]
    pictures = [cv2.imread(str(shared / "faces" / row["file"]))[..., ::-1] for row in rows]
    points = [np.array([float(v) for v in row["lm5_512"].split()]).reshape(5, 2) for row in rows]
    return np.stack(pictures), np.stack(points)

"""A face detector without weights."""

import numpy as np

from cfpp.models.face_detector import FaceDetector, Faces

POINTS = np.array([[80.0, 50], [120, 50], [100, 70], [85, 85], [115, 85]])


class FixedDetector(FaceDetector):
    """Finds the same faces in every photograph: these boxes, each with the landmarks `POINTS`."""

    def __init__(self, *boxes: list[float]) -> None:
        count = len(boxes)
        points = np.repeat(POINTS[None], count, axis=0)
        self.faces = Faces(np.reshape(boxes, (count, 4)), points, np.ones(count))

    def detect(self, picture: np.ndarray, confidence: float = 0.8) -> Faces:
        return self.faces

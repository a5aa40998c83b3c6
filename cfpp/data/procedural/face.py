"""What a procedural face is: the picture and everything known about it."""

from dataclasses import dataclass

import numpy as np

# Parsing classes: the numbers of the CelebAMask-HQ parsers (facexlib's BiSeNet), so that the two compare.
# "_l" and "_r" are the left and right of the picture.
BACKGROUND = 0
SKIN = 1
BROW_L = 2
BROW_R = 3
EYE_L = 4
EYE_R = 5
EAR_L = 7
EAR_R = 8
NOSE = 10
MOUTH = 11  # inside of the open mouth
UPPER_LIP = 12
LOWER_LIP = 13
NECK = 14
CLOTH = 16
HAIR = 17

# FFHQ five-point template at 512 x 512, (x, y) pixels: eyes, nose tip, mouth corners.
TEMPLATE_512 = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]
)


@dataclass(frozen=True)
class Face:
    """One rendered face.

    Attributes:
        picture: uint8 [S, S, 3], RGB.
        landmarks5: float64 [5, 2], (x, y) pixels: left eye, right eye, nose tip, mouth corners.
        landmarks68: float64 [68, 2], (x, y) pixels, iBUG order.
        parsing: uint8 [S, S], the class constants of this module.
        identity: label of the person, such as "p00042".
        key: label of the picture, such as "p00042s03".
    """

    picture: np.ndarray
    landmarks5: np.ndarray
    landmarks68: np.ndarray
    parsing: np.ndarray
    identity: str
    key: str

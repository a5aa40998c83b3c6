"""The batched degradation against the one of a single picture, and its JPEG against libjpeg's."""

import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cfpp.config import DegradationRange
from cfpp.data.degradation import Degradation, apply, draw
from cfpp.data.degradation_batch import apply_batch, jpeg
from cfpp.data.draws import generator
from cfpp.data.pictures import Picture
from cfpp.data.procedural import render
from tests.data.distribution import assert_same_distribution, statistics

LARGE = DegradationRange(sigma=(1.0, 15.0), downsample=(4.0, 30.0), noise=(0.0, 20.0), jpeg=(30, 80))
SMALL = DegradationRange(sigma=(0.1, 10.0), downsample=(1.0, 12.0), noise=(0.0, 15.0), jpeg=(60, 100))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def psnr(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    error = ((one.astype(np.float64) - other.astype(np.float64)) ** 2).mean()
    return 10 * math.log10(255**2 / max(float(error), 1e-6))


def both(
    faces: list[Picture], drawn: list[Degradation]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[np.random.Generator], list[np.random.Generator]]:
    """The batch, the pictures one by one, and the generators each left behind."""
    rngs = [[generator(1, number) for number in range(len(drawn))] for _ in range(2)]
    batch = apply_batch(torch.from_numpy(np.stack(faces)).to(DEVICE), drawn, rngs[0])
    singles = [apply(*given) for given in zip(faces, drawn, rngs[1], strict=True)]
    return batch.cpu().numpy(), np.stack(singles), *rngs


@pytest.mark.parametrize("limits", [LARGE, SMALL])
@pytest.mark.parametrize(("side", "count"), [(64, 16), (128, 16), (256, 8), (512, 3)])
def test_the_batch_is_the_single_pictures(side: int, count: int, limits: DegradationRange) -> None:
    pair = [render(0, identity, 0, side).picture for identity in range(2)]
    faces = [pair[number % 2] for number in range(count)]
    drawn = [draw(limits, generator(0, "batch", number)) for number in range(count)]
    batch, singles, ours, theirs = both(faces, drawn)
    assert batch.dtype == np.uint8
    assert batch.shape == (count, side, side, 3)
    # Two codecs at ties, and two float32 sums: far above the 20 to 30 dB that the degradation leaves.
    assert min(psnr(one, other) for one, other in zip(batch, singles, strict=True)) > 40
    # As much was drawn, so what follows in a generator does not depend on the path.
    assert [rng.random() for rng in ours] == [rng.random() for rng in theirs]


@pytest.mark.parametrize("limits", [LARGE, SMALL])
def test_the_distribution_is_that_of_single_pictures(limits: DegradationRange) -> None:
    faces = [render(0, identity, 0, 128).picture for identity in range(4)] * 20
    drawn = [draw(limits, generator(0, "statistics", number)) for number in range(len(faces))]
    batch, singles, _, _ = both(faces, drawn)
    ours, theirs = (
        np.array([statistics(picture, clean) for picture, clean in zip(made, faces, strict=True)])
        for made in (batch, singles)
    )
    assert_same_distribution(drawn, ours, theirs, of_means=0.1)


def test_a_picture_does_not_depend_on_its_companions() -> None:
    faces = [render(0, identity, 0, 64).picture for identity in range(4)]
    drawn = [draw(SMALL, generator(0, "companions", number)) for number in range(4)]
    together, _, _, _ = both(faces, drawn)
    for number in range(4):
        alone = apply_batch(
            torch.from_numpy(faces[number][None]).to(DEVICE), [drawn[number]], [generator(1, number)]
        )
        assert psnr(alone.cpu().numpy()[0], together[number]) > 50


@pytest.mark.parametrize("quality", [10, 30, 49, 50, 75, 90, 100])
def test_jpeg_is_libjpegs(quality: int) -> None:
    sides = [16, 17, 26, 31, 32, 45, 64, 79]
    padded = np.zeros((len(sides), 80, 80, 3), np.uint8)
    coded = []
    face = render(0, 1, 0, 128).picture
    for place, side in zip(padded, sides, strict=True):
        noise = generator(0, side).normal(0, 8, (side, side, 3))
        shrunk = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        place[:side, :side] = np.clip(np.rint(shrunk + noise), 0, 255)
        bgr = np.ascontiguousarray(place[:side, :side, ::-1])
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        coded.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    planes = torch.from_numpy(padded).to(DEVICE).permute(0, 3, 1, 2).float()
    made = jpeg(planes, sides, torch.full((len(sides),), quality, device=DEVICE))
    made = made.permute(0, 2, 3, 1).cpu().numpy()
    for side, ours, theirs in zip(sides, made, coded, strict=True):
        # A coefficient here and there falls to the other side of a half; the rest is libjpeg's to the level.
        assert psnr(ours[:side, :side], theirs) > 42
        assert (ours[:side, :side] != theirs).mean() < 0.4


def test_what_does_not_fit_together_is_refused() -> None:
    given = Degradation(2.0, 2.0, 0.0, 4.0, 5.0, 60)
    with pytest.raises(ValueError, match="square"):
        apply_batch(torch.zeros((1, 64, 32, 3), dtype=torch.uint8), [given], [generator(0)])
    with pytest.raises(ValueError, match="1 degradations"):
        apply_batch(torch.zeros((2, 64, 64, 3), dtype=torch.uint8), [given], [generator(0)])

"""NIQE: how far the local statistics of a picture lie from those of good photographs, without a reference.

A. Mittal, R. Soundararajan, A. C. Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
Processing Letters, 2013. The figures are those of BasicSR, which follow the authors' MATLAB programme.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch

from cfpp.data.pictures import resize_square
from cfpp.errors import MendableError

BLOCK = 96
MIN_SIDE = 512
FEATURES = 36

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
# MATLAB's imresize(0.5): the cubic kernel (a = -1/2), twice as wide, at the eight pixels under it.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


class NiqeError(MendableError, ValueError):
    """The parameter file is unusable, or a picture has too little texture to be judged."""


@dataclass(frozen=True)
class Aggd:
    """Asymmetric generalised Gaussians: density ~ exp(-(|x| / left)^shape) below 0, right above it.

    Attributes:
        shape: alpha, [...], 0.2 to 10; 2 is Gaussian, 1 Laplacian.
        left: beta_l, the scale below 0, [...].
        right: beta_r, the scale above 0, [...].
        mean: of the distribution, [...].
    """

    shape: np.ndarray
    left: np.ndarray
    right: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Niqe:
    """The model of good photographs that pictures are compared with.

    Attributes:
        mean: of the features of its blocks, float64 [36].
        covariance: of them, float64 [36, 36].
        window: Gaussian of the local mean and deviation, float64 [K, K], K odd, sum 1.
    """

    mean: np.ndarray
    covariance: np.ndarray
    window: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read BasicSR's `niqe_pris_params.npz`: mu_pris_param, cov_pris_param, gaussian_window.

        Raises:
            NiqeError: missing, not such a file, or an array in it has another shape or is not finite.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {key: np.asarray(content[key]) for key in content.files}
        except FileNotFoundError:
            raise NiqeError(f"{path}: not found; NIQE needs BasicSR's niqe_pris_params.npz") from None
        except Exception as error:  # a damaged file raises whatever it comes upon
            raise NiqeError(f"{path}: not a .npz of plain arrays: {error}; fetch it again") from None
        mean = _finite(path, arrays, "mu_pris_param").reshape(-1)
        covariance = _finite(path, arrays, "cov_pris_param")
        window = _finite(path, arrays, "gaussian_window")
        if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
            raise NiqeError(
                f"{path}: expected mu_pris_param of {FEATURES} numbers and cov_pris_param "
                f"[{FEATURES}, {FEATURES}], found {mean.shape} and {covariance.shape}"
            )
        odd_square = window.ndim == 2 and window.shape[0] == window.shape[1] and window.shape[0] % 2 == 1
        if not odd_square or not np.isclose(window.sum(), 1):
            raise NiqeError(f"{path}: gaussian_window {window.shape} is no odd square that sums to 1")
        return cls(mean, covariance, window)

    def measure(self, pictures: np.ndarray) -> np.ndarray:
        """NIQE of each picture; the lower the more natural, 3 to 5 for good photographs.

        Below 512 pixels a side a picture holds too few blocks of 96 and is enlarged to 512 first (bicubic).
        That looks blurred to NIQE, so compare figures only among pictures of one size. Pixels beyond the
        last whole block, at the right and at the bottom, do not count.

        Args:
            pictures: uint8 [B, S, S, 3], RGB.

        Returns:
            float64 [B], 0 or more.

        Raises:
            NiqeError: pictures in which fewer than two blocks have texture, named by their index.
        """
        square = pictures.ndim == 4 and pictures.shape[1:] == (pictures.shape[1], pictures.shape[1], 3)
        if not square or pictures.dtype != np.uint8:
            raise ValueError(f"expected uint8 [B, S, S, 3], found {pictures.dtype} {pictures.shape}")
        features = [picture_features(picture, self.window) for picture in pictures]
        flat = [index for index, found in enumerate(features) if np.isfinite(found).all(axis=1).sum() < 2]
        if flat:
            raise NiqeError(
                f"no texture to judge in {len(flat)} of {len(pictures)} pictures, index {flat[:10]}"
            )
        return np.array([distance(self.mean, self.covariance, found) for found in features])


def picture_features(picture: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Features of the blocks of a picture at full and at half size: float64 [N, 36], N = (S // 96)^2.

    A block that is flat has NaN among its features.

    Args:
        picture: uint8 [S, S, 3], RGB.
        window: as in `Niqe`.
    """
    if len(picture) < MIN_SIDE:
        picture = resize_square(picture, MIN_SIDE)
    count = len(picture) // BLOCK
    plane = luminance(picture)[: count * BLOCK, : count * BLOCK]
    half = cv2.sepFilter2D(
        plane, cv2.CV_64F, _HALVING, _HALVING, anchor=(3, 3), borderType=cv2.BORDER_REFLECT
    )[::2, ::2]
    scales = [block_features(_blocks(mscn(level, window), count)) for level in (plane, half)]
    return np.concatenate(scales, axis=1)


def luminance(picture: np.ndarray) -> np.ndarray:
    """Y of MATLAB's rgb2ycbcr (BT.601, 16 to 235), whole numbers: uint8 [..., 3] to float64 [...]."""
    rounded: np.ndarray = np.round(16 + picture @ np.array([65.481, 128.553, 24.966]) / 255)
    return rounded


def mscn(plane: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Mean-subtracted, contrast-normalised coefficients: (I - mean) / (deviation + 1), locally weighted.

    In single precision, as the published figures: in areas that are flat or nearly so the fit goes by the
    sign of coefficients near 0, and single precision makes them exactly 0 where the picture is flat.

    Args:
        plane: [H, W], 0 to 255. Beyond the edge its last pixels go on.
        window: weights of the local mean and variance, float64 [K, K].

    Returns:
        float64 [H, W].
    """
    plane = plane.astype(np.float32)
    mean, power = (
        cv2.filter2D(values.astype(np.float64), -1, window, borderType=cv2.BORDER_REPLICATE).astype(
            np.float32
        )
        for values in (plane, plane * plane)
    )
    deviation = np.sqrt(np.abs(power - mean * mean))
    coefficients: np.ndarray = ((plane - mean) / (deviation + 1)).astype(np.float64)
    return coefficients


def block_features(blocks: np.ndarray) -> np.ndarray:
    """18 features of each block: the fit of its coefficients and of their products with four neighbours.

    Args:
        blocks: MSCN coefficients, float64 [N, h, w]. Neighbours across the edge are those of the other side.

    Returns:
        float64 [N, 18]: shape and mean scale of the coefficients, then shape, mean, left and right scale
        of the products with the left, the upper and both upper diagonal neighbours.
    """
    own = fit_aggd(blocks.reshape(len(blocks), -1))
    columns = [own.shape, (own.left + own.right) / 2]
    for shift in _NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        pair = fit_aggd(products.reshape(len(blocks), -1))
        columns += [pair.shape, pair.mean, pair.left, pair.right]
    return np.stack(columns, axis=1)


def fit_aggd(samples: np.ndarray) -> Aggd:
    """Fit asymmetric generalised Gaussians by their moments (Lasmar, Stitou, Berthoumieu, 2009).

    The shape is the one of 0.2, 0.201, ..., 10 whose ratio of moments is nearest to that of the samples.

    Args:
        samples: float64 [..., P].

    Returns:
        Arrays of [...]. Where no sample is below, or none above 0, the scales are NaN and the shape is 0.2,
        as in the authors' programme.
    """
    below, above = np.minimum(samples, 0), np.maximum(samples, 0)
    squares_below, squares_above = np.square(below).sum(axis=-1), np.square(above).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.sqrt(squares_below / np.count_nonzero(below, axis=-1))
        right = np.sqrt(squares_above / np.count_nonzero(above, axis=-1))
        ratio = left / right
        size = samples.shape[-1]
        moments = np.square(np.abs(samples).mean(axis=-1)) / ((squares_below + squares_above) / size)
        moments = moments * (ratio**3 + 1) * (ratio + 1) / np.square(ratio**2 + 1)
    index = _nearest(_MOMENTS, np.nan_to_num(moments, nan=0.0))
    scale = np.exp((_LOG_GAMMA[0][index] - _LOG_GAMMA[2][index]) / 2)
    left, right = left * scale, right * scale
    mean = (right - left) * np.exp(_LOG_GAMMA[1][index] - _LOG_GAMMA[0][index])
    return Aggd(_SHAPES[index], left, right, mean)


def distance(mean: np.ndarray, covariance: np.ndarray, features: np.ndarray) -> float:
    """Between two Gaussians: sqrt(d' pinv((S1 + S2) / 2) d), d the difference of their means.

    Args:
        mean: of the first, [D].
        covariance: of the first, [D, D].
        features: samples of the second, [N, D]. Its mean leaves out NaN, its covariance rows with any.
    """
    whole = features[np.isfinite(features).all(axis=1)]
    gap = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(np.maximum(0.0, gap @ inverse @ gap)))


def _finite(path: Path, arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise NiqeError(f"{path}: lacks {key}; NIQE needs BasicSR's niqe_pris_params.npz")
    array = arrays[key]
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise NiqeError(f"{path}: {key} is not of finite floating-point numbers")
    return array.astype(np.float64)


def _blocks(plane: np.ndarray, count: int) -> np.ndarray:
    """[H, W] cut into count x count blocks: [count^2, H / count, W / count]."""
    height, width = plane.shape[0] // count, plane.shape[1] // count
    grid = plane.reshape(count, height, count, width).transpose(0, 2, 1, 3)
    return grid.reshape(count * count, height, width)


def _nearest(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the element of `ascending` that is nearest to each value."""
    after = np.searchsorted(ascending, values).clip(1, len(ascending) - 1)
    index: np.ndarray = np.where(values - ascending[after - 1] <= ascending[after] - values, after - 1, after)
    return index


_SHAPES = 0.2 + 0.001 * np.arange(9801)
# log Gamma(k / shape) for k = 1, 2, 3.
_LOG_GAMMA = torch.lgamma(torch.from_numpy(np.arange(1, 4)[:, None] / _SHAPES)).numpy()
# (E|x|)^2 / E x^2 of each shape, ascending.
_MOMENTS = np.exp(2 * _LOG_GAMMA[1] - _LOG_GAMMA[0] - _LOG_GAMMA[2])

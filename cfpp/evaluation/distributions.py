"""FID and KID: how far a set of pictures lies from a reference set, in the features of one network.

No picture is compared with another, so the sets need neither the same people nor the same number; but both
figures depend on the numbers, which every result states. FID from few pictures is too high (Chong, Forsyth,
2020); KID is unbiased (Binkowski et al., 2018).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cfpp.data.draws import generator
from cfpp.errors import MendableError
from cfpp.models.weights import WeightsError, read_state
from cfpp.progress import progress_bar

SUBSETS = 100
SUBSET_SIZE = 1000


class SetError(MendableError, ValueError):
    """A set of pictures that no distance can be taken of."""


@dataclass(frozen=True)
class SetDistance:
    """Between a set of pictures and a reference set.

    Attributes:
        fid: Frechet inception distance, 0 or more.
        kid: kernel inception distance, a squared one; about 0 for equal distributions, also below it.
        kid_deviation: standard deviation of KID over subsets; None when a set is too small to have them.
        n: pictures in the set.
        reference_n: pictures in the reference set.
    """

    fid: float
    kid: float
    kid_deviation: float | None
    n: int
    reference_n: int


class InceptionFeatures:
    """FID's Inception-v3 (TensorFlow, 2015), by torch-fidelity: 2048 features of a picture."""

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        """Read the published weights, `pt_inception-2015-12-05-6726825d.pth`; nothing is downloaded.

        Raises:
            WeightsError: missing, damaged, or the weights of another network.
        """
        from torch_fidelity import FeatureExtractorInceptionV3

        # The library would unpickle whatever the file holds: it gets a copy made of plain tensors.
        copy = io.BytesIO()
        torch.save(read_state(path), copy)
        copy.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048"], copy)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"{path}: not FID's Inception: {reason}; fetch it again") from None
        self._network, self._device = network.to(device), torch.device(device)

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Features of pictures, resized to 299 x 299 the way FID's TensorFlow did.

        Args:
            pictures: uint8 [B, S, S, 3], RGB.

        Returns:
            float64 [B, 2048], 0 or more.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ValueError(f"expected uint8 [B, S, S, 3], found {pictures.dtype} {pictures.shape}")
        planes = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            (found,) = self._network(planes.to(self._device))
        features: np.ndarray = found.double().cpu().numpy()
        return features


def set_distance(
    features: np.ndarray,
    reference: np.ndarray,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> SetDistance:
    """FID and KID of two sets of features.

    Args:
        features: [N, D], N >= 2.
        reference: [M, D], M >= 2.
        subsets, subset_size, seed: as in `kernel_distance`.

    Raises:
        SetError: fewer than two pictures, features of two networks, or values that are not finite.
    """
    kid, deviation = kernel_distance(features, reference, subsets=subsets, subset_size=subset_size, seed=seed)
    fid = frechet_distance(features, reference)
    return SetDistance(fid, kid, deviation, len(features), len(reference))


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians with the sets' means and covariances.

    With S1 = X'X and S2 = Y'Y (X, Y centred and scaled), the trace of the root is the sum of the singular
    values of XY'. No [D, D] root is taken, which is what makes FID of fewer pictures than features unstable.

    Args:
        features: [N, D], N >= 2.
        reference: [M, D], M >= 2.

    Raises:
        SetError: as `set_distance`.
    """
    features, reference = _checked(features, reference)
    gap = features.mean(axis=0) - reference.mean(axis=0)
    first, second = _root(features), _root(reference)
    common = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + np.square(first).sum() + np.square(second).sum() - 2 * common))


def kernel_distance(
    features: np.ndarray,
    reference: np.ndarray,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float | None]:
    """Unbiased squared maximum mean discrepancy with the kernel (x'y / D + 1)^3, over random subsets.

    Args:
        features: [N, D], N >= 2.
        reference: [M, D], M >= 2.
        subsets: how many are drawn, 2 or more.
        subset_size: pictures that each subset takes of either set, without replacement.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets; where a set has no more than `subset_size` pictures,
        the one value of all pictures, and None.

    Raises:
        SetError: as `set_distance`.
    """
    features, reference = _checked(features, reference)
    if subsets < 2 or subset_size < 2:
        raise ValueError(f"subsets and subset_size must be 2 or more, found {subsets} and {subset_size}")
    if min(len(features), len(reference)) <= subset_size:
        return _discrepancy(features, reference), None
    rng = generator(seed, "kernel distance")
    bar = progress_bar(subsets, "KID", "subset")
    values = np.empty(subsets)
    for index in range(subsets):
        first = rng.choice(len(features), subset_size, replace=False)
        second = rng.choice(len(reference), subset_size, replace=False)
        values[index] = _discrepancy(features[first], reference[second])
        bar.update(1)
    bar.close()
    return float(values.mean()), float(values.std())


def _checked(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for name, found in (("set", features), ("reference set", reference)):
        if found.ndim != 2:
            raise ValueError(f"expected features [N, D], found {found.shape}")
        if len(found) < 2:
            raise SetError(
                f"the {name} has {len(found)} pictures; FID and KID need two or more, better thousands"
            )
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise SetError(
                f"the {name} has {len(bad)} pictures whose features are not finite: {bad[:10].tolist()}"
            )
    if features.shape[1] != reference.shape[1]:
        raise SetError(
            f"features of two networks: {features.shape[1]} numbers a picture, and {reference.shape[1]}"
        )
    return features.astype(np.float64), reference.astype(np.float64)


def _root(features: np.ndarray) -> np.ndarray:
    """R [min(N, D), D] with R'R the covariance of the features [N, D]."""
    centred: np.ndarray = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    root: np.ndarray = np.asarray(np.linalg.qr(centred, mode="r"))
    return root


def _discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    n, m = len(first), len(second)
    within_first, within_second = _kernel(first, first), _kernel(second, second)
    across = _kernel(first, second).mean()
    own_first = (within_first.sum() - np.trace(within_first)) / (n * (n - 1))
    own_second = (within_second.sum() - np.trace(within_second)) / (m * (m - 1))
    return float(own_first + own_second - 2 * across)


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel

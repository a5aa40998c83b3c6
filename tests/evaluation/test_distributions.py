"""FID and KID against closed forms, plain loops and torch-fidelity's figures; the Inception's wiring."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from cfpp.evaluation.distributions import (
    InceptionFeatures,
    SetDistance,
    SetError,
    frechet_distance,
    kernel_distance,
    set_distance,
)
from cfpp.models.weights import WeightsError


def exact_gaussian(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Samples [n, D] whose sample mean and covariance are exactly these."""
    samples = np.random.default_rng(seed).normal(size=(n, len(mean)))
    samples -= samples.mean(axis=0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(samples, rowvar=False)), samples.T).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    first = exact_gaussian(np.array([1.0, 2, 3]), np.diag([1.0, 4, 9]), 50, 1)
    second = exact_gaussian(np.array([0.0, 2, 5]), np.diag([4.0, 4, 1]), 8, 2)
    # 1 + 4 for the means; (1 - 2)^2 + 0 + (3 - 1)^2 for the deviations.
    assert frechet_distance(first, second) == pytest.approx(10)
    assert frechet_distance(second, first) == pytest.approx(10)


def test_frechet_distance_of_any_gaussians_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(3)
    root1, root2 = rng.normal(size=(2, 6, 6))
    mean1, mean2 = rng.normal(size=(2, 6))
    covariance1, covariance2 = root1 @ root1.T, root2 @ root2.T
    between = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(covariance1 + covariance2 - 2 * between)
    first, second = exact_gaussian(mean1, covariance1, 40, 4), exact_gaussian(mean2, covariance2, 300, 5)
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_fewer_pictures_than_features_give_the_distance_in_their_own_space() -> None:
    """Features that only span a few directions: the same as without the others, to the last digits."""
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(9, 4)), rng.normal(size=(30, 4)) + 1
    basis = np.linalg.qr(rng.normal(size=(200, 4)))[0].T
    assert frechet_distance(first @ basis, second @ basis) == pytest.approx(frechet_distance(first, second))


@pytest.mark.parametrize(("n", "features"), [(5, 50), (60, 7)])
def test_a_set_is_at_no_distance_from_itself(n: int, features: int) -> None:
    found = np.random.default_rng(7).normal(size=(n, features))
    assert frechet_distance(found, found[::-1]) == pytest.approx(0, abs=1e-10)


def test_kernel_distance_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)) + 0.3

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / 5 + 1) ** 3

    def within(points: np.ndarray) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = sum(kernel(x, y) for x in first for y in second) / (len(first) * len(second))
    expected = within(first) + within(second) - 2 * across
    found, deviation = kernel_distance(first, second)
    assert found == pytest.approx(expected)
    assert deviation is None


def test_kernel_distance_of_one_distribution_is_nought_on_average() -> None:
    """Unbiased, so it is as often below 0; the biased estimate is about 1 here."""
    rng = np.random.default_rng(9)
    values = np.array([kernel_distance(*rng.normal(size=(2, 20, 4)))[0] for _ in range(400)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert (values < 0).any()


def test_subsets_estimate_the_distance_of_all_and_state_their_spread() -> None:
    rng = np.random.default_rng(10)
    first, second = rng.normal(size=(400, 6)), rng.normal(size=(300, 6)) + 0.5
    whole, _ = kernel_distance(first, second)
    found, deviation = kernel_distance(first, second, subsets=200, subset_size=50)
    assert deviation is not None
    assert abs(found - whole) < 4 * deviation / np.sqrt(200)
    assert kernel_distance(first, second, subsets=200, subset_size=50) == (found, deviation)
    assert kernel_distance(first, second, subsets=200, subset_size=50, seed=1) != (found, deviation)


def test_both_are_torch_fidelity_s() -> None:
    rng = np.random.default_rng(11)
    first = np.abs(rng.normal(size=(500, 16)))
    second = np.abs(rng.normal(size=(500, 16)) + 0.2) ** 1.1
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(first, second) == pytest.approx(fid, rel=1e-6)

    def theirs(size: int) -> tuple[float, float]:
        found = kid_features_to_metric(
            torch.from_numpy(first),
            torch.from_numpy(second),
            kid_subsets=100,
            kid_subset_size=size,
            verbose=False,
        )
        return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]

    # All pictures in one subset leave nothing to the draw; of subsets the draws differ, not the spread.
    assert kernel_distance(first, second)[0] == pytest.approx(theirs(500)[0], rel=1e-9)
    mean, deviation = theirs(100)
    found, spread = kernel_distance(first, second, subset_size=100)
    assert spread == pytest.approx(deviation, rel=0.3)
    assert abs(found - mean) < 4 * deviation / np.sqrt(50)


def test_a_result_states_the_numbers_of_both_sets() -> None:
    rng = np.random.default_rng(12)
    first, second = rng.normal(size=(12, 30)), rng.normal(size=(20, 30))
    found = set_distance(first, second)
    assert found == SetDistance(
        frechet_distance(first, second), kernel_distance(first, second)[0], None, n=12, reference_n=20
    )


def test_sets_without_a_distance_are_named() -> None:
    many, one = np.zeros((3, 4)), np.zeros((1, 4))
    with pytest.raises(SetError, match="the set has 1 pictures; FID and KID need two or more"):
        set_distance(one, many)
    with pytest.raises(SetError, match="the reference set has 0 pictures"):
        frechet_distance(many, one[:0])
    with pytest.raises(SetError, match="features of two networks: 4 numbers a picture, and 5"):
        set_distance(many, np.zeros((3, 5)))
    broken = many.copy()
    broken[2, 1] = np.nan
    with pytest.raises(SetError, match=r"the reference set has 1 pictures whose features .* \[2\]"):
        kernel_distance(many, broken)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published one's keys and shapes (torchvision's Inception, 1008 classes), random."""
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    generator = torch.Generator().manual_seed(0)
    network = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    state = {}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):  # the published file is older than these
            continue
        if value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator)
            state[key] = noise * (2 / value[0].numel()) ** 0.5
        else:
            state[key] = value
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> InceptionFeatures:
    return InceptionFeatures(inception_file)


def test_features_are_those_of_the_network_in_the_file(
    inception_file: Path, inception: InceptionFeatures
) -> None:
    rng = np.random.default_rng(13)
    pictures = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = inception.features(pictures)
    assert found.shape == (3, 2048)
    assert found.dtype == np.float64
    plain = FeatureExtractorInceptionV3("plain", ["2048"], str(inception_file))
    (expected,) = plain(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert found.std(axis=0).max() > 0.01
    # RGB, not BGR; and a picture's features do not depend on its neighbours in the batch.
    assert np.abs(inception.features(pictures[..., ::-1]) - found).max() > 0.01
    np.testing.assert_allclose(inception.features(pictures[1:2]), found[1:2], rtol=1e-4, atol=1e-5)
    assert np.isfinite(set_distance(found[:2], found).fid)


def test_features_refuse_other_arrays(inception: InceptionFeatures) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        inception.features(np.zeros((2, 64, 64, 3)))


def test_other_weights_are_refused(inception_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: not found"):
        InceptionFeatures(tmp_path / "none.pth")
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    with pytest.raises(WeightsError, match=r"other\.pth: not FID's Inception: .*Conv2d_1a_3x3"):
        InceptionFeatures(other)
    other.write_bytes(inception_file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"other\.pth: not a checkpoint"):
        InceptionFeatures(other)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        InceptionFeatures(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()

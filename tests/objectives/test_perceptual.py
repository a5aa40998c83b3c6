"""The perceptual distance against slow, separate computations and against what it must feel."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from cfpp.config import ParamsError
from cfpp.models.external import ExternalFile, ExternalFileError
from cfpp.objectives import perceptual
from cfpp.objectives.perceptual import (
    LPIPS,
    NLPD,
    Backbone,
    PerceptualError,
    build_perceptual,
    find_lpips,
)


def face_like(seed: int, side: int = 96) -> np.ndarray:
    """Smooth blobs plus some grain, [3, side, side] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((3, side, side)), (0, 6, 6))
    grain = ndimage.gaussian_filter(rng.standard_normal((3, side, side)), (0, 0.7, 0.7))
    return np.clip(3 * smooth + 0.15 * grain, -1, 1)


def slow_nlpd(a: np.ndarray, b: np.ndarray) -> float:
    """Laparra et al. 2016 written out with scipy: zero insertion, mirrored borders, one picture."""
    taps = np.array([0.05, 0.25, 0.4, 0.25, 0.05])
    constants = [0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782]
    weights = [  # from the paper's toolbox, as convolution kernels (flipped before use)
        [[0, 0.1011, 0, 0], [0.1493, 0, 0.1460, 0.0072], [0, 0.1015, 0, 0]],
        [[0, 0.0757, 0, 0], [0.1986, 0, 0.1846, 0], [0, 0.0837, 0, 0]],
        [[0, 0.0477, 0, 0], [0.2138, 0, 0.2243, 0], [0, 0.0467, 0, 0]],
        [[0, 0, 0, 0], [0.2503, 0, 0.2616, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0.2598, 0, 0.2552, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0.2215, 0, 0.0717, 0], [0, 0, 0, 0]],
    ]

    def low(x: np.ndarray) -> np.ndarray:
        return ndimage.correlate1d(ndimage.correlate1d(x, taps, 0, mode="mirror"), taps, 1, mode="mirror")

    def transform(picture: np.ndarray) -> list[np.ndarray]:
        current = np.tensordot([0.299, 0.587, 0.114], (picture + 1) / 2, 1)
        bands = []
        for level in range(6):
            if level == 5:
                band = current
            else:
                small = low(current)[::2, ::2]
                big = np.zeros_like(current)
                big[::2, ::2] = 4 * small
                band, current = current - low(big), small
            kernel = np.zeros((5, 5))
            kernel[1:4, 1:5] = weights[level]
            around = ndimage.convolve(np.abs(band), kernel, mode="mirror")
            bands.append(band / (constants[level] + around))
        return bands

    pairs = zip(transform(a), transform(b), strict=True)
    return float(np.mean([np.sqrt(np.mean((x - y) ** 2)) for x, y in pairs]))


def as_batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float()


@pytest.mark.parametrize("shape", [(96, 96), (128, 128), (65, 130)])
def test_nlpd_equals_the_slow_definition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for seed in range(2):
        a = face_like(seed, 130)[:, : shape[0], : shape[1]]
        pairs.append((a, np.clip(a + 0.1 * rng.standard_normal(a.shape), -1, 1)))
    found = NLPD()(as_batch(*[a for a, _ in pairs]), as_batch(*[b for _, b in pairs]))
    expected = [slow_nlpd(a, b) for a, b in pairs]
    assert expected[0] > 0.05
    assert found.numpy() == pytest.approx(expected, abs=3e-5)


def test_nlpd_grows_with_blur_and_with_noise() -> None:
    clean = face_like(3)
    noise = np.random.default_rng(1).standard_normal(clean.shape)
    blurred = [ndimage.gaussian_filter(clean, (0, s, s)) for s in (0.4, 0.8, 1.6, 3.2)]
    noisy = [clean + s * noise for s in (0.01, 0.03, 0.1, 0.3)]
    for series in (blurred, noisy):
        distances = NLPD()(as_batch(*[clean] * 4), as_batch(*series))
        assert (distances.diff() > 0).all(), distances
        assert distances[0] > 0


def test_nlpd_is_a_distance_with_usable_gradients() -> None:
    a, b = as_batch(face_like(0, 64)), as_batch(face_like(1, 64))
    nlpd = NLPD()
    assert nlpd(a, a).item() == 0
    assert nlpd(a, b).item() == pytest.approx(nlpd(b, a).item())
    same = a.clone().requires_grad_()
    nlpd(same, a).sum().backward()
    assert torch.isfinite(same.grad).all()
    moved = a.clone()
    for _ in range(12):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(nlpd(moved, b).sum(), moved)
        moved = (moved - 0.04 * gradient / gradient.abs().max()).detach()
    assert nlpd(moved, b) < 0.9 * nlpd(a, b)


def test_nlpd_has_fewer_bands_on_small_pictures_and_refuses_the_tiny() -> None:
    assert [len(NLPD().bands(torch.zeros(1, 3, s, s))) for s in (64, 63, 32, 4)] == [6, 5, 5, 2]
    with pytest.raises(PerceptualError, match="4 pixels"):
        NLPD()(torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        NLPD()(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


def test_without_weights_it_is_nlpd(tmp_path: Path) -> None:
    assert build_perceptual("").name == "NLPD"
    assert build_perceptual(str(tmp_path)).name == "NLPD"


def test_a_damaged_or_missing_folder_of_weights_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"weights\.root"):
        build_perceptual(str(tmp_path / "absent"))
    (tmp_path / "squeezenet1_1_int8_dequantised.pth").write_bytes(b"cut short")
    with pytest.raises(ExternalFileError, match="sha256"):
        build_perceptual(str(tmp_path))


def test_lpips_equals_its_definition_over_torchvisions_network(shared: Path) -> None:
    import importlib.resources

    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    before = torch.get_rng_state()
    lpips = find_lpips(str(shared / "weights"))
    assert lpips is not None
    assert torch.equal(before, torch.get_rng_state()), "building it must not move anyone's random numbers"
    assert lpips.name == "LPIPS-squeeze (int8)"
    backbone = squeezenet1_1(weights=None).eval()
    state = torch.load(shared / "weights/squeezenet1_1_int8_dequantised.pth", weights_only=True)
    backbone.load_state_dict(state)
    linear = torch.load(
        str(importlib.resources.files("lpips").joinpath("weights/v0.1/squeeze.pth")),
        map_location="cpu",
        weights_only=True,
    )
    a, b = as_batch(face_like(0), face_like(1)), as_batch(face_like(2), face_like(1))

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
            :, None, None
        ]
        found = []
        for number, layer in enumerate(backbone.features):
            x = layer(x)
            if number in (1, 4, 7, 9, 10, 11, 12):
                found.append(F.normalize(x, dim=1, eps=0))
        return found

    with torch.inference_mode():
        expected = sum(
            ((x - y).square() * linear[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
            for i, (x, y) in enumerate(zip(features(a), features(b), strict=True))
        )
        lpips.train()
        found = lpips(a, b)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-7)
    assert found[0] > 0.1 > found[1]
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


@pytest.fixture
def _no_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of VGG16 the unused classifier is nine tenths of the weights: left unset, it costs nothing."""
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: None)
    monkeypatch.setattr(torch.nn.init, "normal_", lambda tensor, *_, **__: tensor)


@pytest.mark.usefixtures("_no_classifier")
@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_lpips_on_other_backbones_equals_that_of_its_authors(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights: the same seed gives torchvision's network and the one inside lpips the same ones."""
    import lpips
    import torchvision

    make = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[backbone]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = {k: v for k, v in make().state_dict().items() if k.startswith("features.")}
        torch.manual_seed(7)
        reference = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
    torch.save(state, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(perceptual.LPIPS_FILES, backbone, (ExternalFile("net.pth", digest, "random"),))
    found = find_lpips(str(tmp_path), backbone)
    assert found is not None
    assert found.name == "random"
    a, b = as_batch(face_like(0), face_like(1)), as_batch(face_like(2), face_like(1))
    with torch.inference_mode():
        distances = found(a, b)
        assert torch.allclose(distances, reference(a, b).flatten(), rtol=1e-5)
    assert distances[0] > 1e-4
    assert distances[1] == 0


def test_a_backbone_of_another_network_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"net: the file lacks slice1\.0\.weight and 9 more"):
        LPIPS("alex", {"layer1.weight": torch.zeros(1)}, "net")


@pytest.mark.usefixtures("_no_classifier")
@pytest.mark.parametrize(("backbone", "least"), [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_lpips_refuses_what_its_backbone_cannot_see(backbone: Backbone, least: int) -> None:
    import torchvision

    make = {
        "alex": torchvision.models.alexnet,
        "vgg": torchvision.models.vgg16,
        "squeeze": torchvision.models.squeezenet1_1,
    }[backbone]
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in make().state_dict().items() if k.startswith("features.")}
    net = LPIPS(backbone, {key: torch.full(shape, 0.01) for key, shape in shapes.items()}, "net")
    small, enough = torch.zeros(1, 3, least, least - 1), torch.zeros(1, 3, least, least)
    assert net(enough, enough).item() == 0
    with pytest.raises(
        PerceptualError, match=f"net needs sides of {least} pixels or more, found {least - 1}"
    ):
        net(small, small)


def test_lpips_without_its_backbone_is_none(shared: Path) -> None:
    assert find_lpips("", "alex") is None
    assert find_lpips(str(shared / "weights"), "vgg") is None

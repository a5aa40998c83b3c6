"""Embedders: crops against an independent fit, networks against their inputs, real faces, honest absence."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facexlib.recognition.arcface_arch import Backbone
from skimage.transform import SimilarityTransform

from cfpp.config import ParamsError, WeightsParams
from cfpp.data.align import AlignError, scaled_template
from cfpp.data.components import TEMPLATE_512
from cfpp.data.crops import (
    ARCFACE_TEMPLATE,
    SPHEREFACE_TEMPLATE,
    five_point_crop,
)
from cfpp.evaluation import identity
from cfpp.evaluation.identity import (
    ArcFace,
    EmbeddedIdentity,
    OnnxIdentity,
    angle,
    choose_identity,
    similarity,
)
from cfpp.evaluation.unavailable import Unavailable
from cfpp.evaluation.verification import auc, equal_error_rate, pair_scores
from cfpp.models.external import ExternalFile, ExternalFileError
from cfpp.models.probe import Probe
from tests.evaluation.tiny_onnx import mean_colour

SPHEREFACE = (SPHEREFACE_TEMPLATE, (112, 96))
ARCFACE = (ARCFACE_TEMPLATE, (112, 112))


def weights(root: str | Path = "", identity: str | Path = "") -> WeightsParams:
    return WeightsParams(root=str(root), identity=str(identity), landmarks="")


@pytest.mark.parametrize(("template", "side"), [SPHEREFACE, ARCFACE])
def test_the_crop_lays_the_points_on_the_template(template: np.ndarray, side: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    points = scaled_template(256) + rng.normal(0, 3, (5, 2))
    expected = SimilarityTransform.from_estimate(points, template)
    ramp = np.stack(np.meshgrid(np.arange(256.0), np.arange(256.0)), axis=2)
    picture = np.concatenate([ramp, np.zeros((256, 256, 1))], axis=2).astype(np.uint8)
    crop = five_point_crop(picture, points, template, side)
    assert crop.shape == (*side, 3)
    inside = expected.inverse(np.array([(40.0, 50.0), (60.0, 80.0), (50.0, 66.0)]))
    found = np.array([crop[50, 40, :2], crop[80, 60, :2], crop[66, 50, :2]])
    assert found == pytest.approx(inside, abs=1.2)


def test_the_crop_of_a_large_picture_equals_that_of_the_small_one() -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), (0, 0), 3)
    large = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)
    first = five_point_crop(small, scaled_template(128), *SPHEREFACE)
    second = five_point_crop(large, TEMPLATE_512, *SPHEREFACE)
    assert first.shape == (112, 96, 3)
    assert np.abs(first.astype(int) - second.astype(int)).mean() < 2


def test_coinciding_landmarks_are_refused() -> None:
    with pytest.raises(AlignError, match="coincide"):
        five_point_crop(np.zeros((64, 64, 3), np.uint8), np.full((5, 2), 30.0), *ARCFACE)


def test_the_template_of_arcface_is_that_of_sphereface_moved_by_the_wider_crop() -> None:
    assert np.abs(ARCFACE_TEMPLATE - SPHEREFACE_TEMPLATE - [8, 0]).max() < 0.01


@pytest.mark.parametrize(
    ("shape", "scale"), [(("n", 3, 112, 96), 128), (("n", 3, 112, 112), 127.5), ((1, 3, 112, 112), 127.5)]
)
def test_the_input_of_the_network_says_crop_and_scale(
    tmp_path: Path, shape: tuple[int | str, ...], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "LEAST_NUMBERS", 3)
    (tmp_path / "net.onnx").write_bytes(mean_colour(shape))
    rng = np.random.default_rng(0)
    pictures = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 9)).astype(np.uint8), (0, 0), 9)
    pictures = np.ascontiguousarray(pictures.reshape(128, 128, 3, 3).transpose(2, 0, 1, 3))
    found = OnnxIdentity(tmp_path / "net.onnx", "tiny").embed(pictures)
    template, side = SPHEREFACE if shape[3] == 96 else ARCFACE
    crops = [five_point_crop(picture, scaled_template(128), template, side) for picture in pictures]
    expected = (np.stack(crops).mean(axis=(1, 2)) - 127.5) / scale
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-4)


def test_a_network_that_is_no_embedder_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ParamsError, match=r"net\.onnx: not found"):
        OnnxIdentity(path, "tiny")
    for content, reason in (
        (b"no network", "onnxruntime cannot read it"),
        (mean_colour(("n", 3, 224, 224)), "takes 224 x 224 pixels; a face embedder takes"),
        (mean_colour(("n", 3, "h", "w")), r"expected one tensor\(float\) \[n, 3, H, W\]"),
        (mean_colour(("n", 1, 112, 112)), "expected one tensor"),
        (
            mean_colour(("n", 3, 112, 112)),
            r"gives \[1, 3\] of a face; an embedder gives \[1, D\], D of 64 or",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(ExternalFileError, match=rf"net\.onnx: .*{reason}"):
            OnnxIdentity(path, "tiny")


def test_a_detector_of_landmarks_is_no_embedder(shared: Path) -> None:
    with pytest.raises(ExternalFileError, match=r"pfld_68\.onnx: gives \[1, 136\] .* 68 landmarks"):
        OnnxIdentity(shared / "weights/pfld_68.onnx", "PFLD")


def test_embeddings_without_a_length_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "LEAST_NUMBERS", 3)
    (tmp_path / "net.onnx").write_bytes(mean_colour(("n", 3, 112, 112)))
    embedder = OnnxIdentity(tmp_path / "net.onnx", "tiny")
    embedder._network.run = lambda inputs: np.zeros((len(inputs), 3))  # type: ignore[method-assign]
    with pytest.raises(ExternalFileError, match="tiny: gives embeddings that are not finite or of length 0"):
        embedder.embed(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def arcface(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Backbone]]:
    """facexlib's network with random weights, and its file."""
    path = tmp_path_factory.mktemp("arcface") / "recognition_arcface_ir_se50.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").eval()
    torch.save(network.state_dict(), path)
    yield path, network
    path.unlink()


def test_arcface_is_facexlibs_network_on_bgr(arcface: tuple[Path, Backbone]) -> None:
    path, network = arcface
    before = torch.get_rng_state()
    embedder = ArcFace(path)
    assert torch.equal(before, torch.get_rng_state()), "building it must not move anyone's random numbers"
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), (0, 0), 4)
    found = embedder.embed(picture[None])
    bgr = cv2.cvtColor(five_point_crop(picture, scaled_template(128), *ARCFACE), cv2.COLOR_RGB2BGR)
    with torch.inference_mode():
        expected = network(torch.from_numpy((bgr / 255 - 0.5) / 0.5).float().permute(2, 0, 1)[None])
    assert found.shape == (1, 512)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_arcface_comes_before_mobilefacenet_and_a_named_file_before_both(
    tmp_path: Path, arcface: tuple[Path, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = arcface
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(identity, "ARCFACE", (ExternalFile(path.name, digest, "ArcFace"),))
    monkeypatch.setattr(identity, "LEAST_NUMBERS", 3)
    assert isinstance(choose_identity("folder", weights(path.parent), Probe()), ArcFace)
    (tmp_path / "own.onnx").write_bytes(mean_colour(("n", 3, 112, 112)))
    for domain in ("folder", "procedural"):
        chosen = choose_identity(domain, weights(path.parent, tmp_path / "own.onnx"), Probe())
        assert isinstance(chosen, OnnxIdentity)
        assert chosen.name == "own.onnx"


def test_another_state_dict_under_arcfaces_name_is_an_error(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(ExternalFileError, match=r"net\.pth: another network: .*input_layer"):
        ArcFace(tmp_path / "net.pth")


def test_the_angle_is_the_arc_cosine_and_exact_where_that_is_not() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(50, 128)) for _ in range(2))
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    assert angle(first, second) == pytest.approx(np.degrees(np.arccos(similarity(first, second))))
    assert angle(first.astype(np.float32), first.astype(np.float32)).max() == 0
    turned = np.array([[np.cos(1e-5), np.sin(1e-5)]])
    assert angle(np.array([[1.0, 0.0]]), turned)[0] == pytest.approx(np.degrees(1e-5), rel=1e-6)
    assert angle(first, -first) == pytest.approx(np.full(50, 180.0))


def test_mobilefacenet_knows_a_degraded_photo_and_tells_people_apart(
    shared: Path, real_faces: tuple[np.ndarray, np.ndarray]
) -> None:
    embedder = OnnxIdentity(shared / "weights/mobilefacenet_112x96.onnx", "MobileFaceNet")
    pictures, points = real_faces
    small = [cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures]
    worse = np.stack([cv2.resize(p, (512, 512), interpolation=cv2.INTER_LINEAR) for p in small])
    clean, degraded = embedder.embed(pictures, points), embedder.embed(worse, points)
    assert np.linalg.norm(clean, axis=1) == pytest.approx(1, abs=1e-5)
    others = (clean @ clean.T)[~np.eye(len(clean), dtype=bool)]
    assert abs(others.mean()) < 0.1
    assert others.max() < 0.6
    assert similarity(clean, degraded).min() > 0.75
    # aligned faces need no landmarks: the template finds the same people
    templated = embedder.embed(pictures)
    assert similarity(clean, templated).mean() > 0.85
    assert ((templated @ clean.T).argmax(axis=1) == np.arange(24)).all()


def test_photographs_without_a_network_are_unavailable_with_the_reason(tmp_path: Path, shared: Path) -> None:
    absent = choose_identity("folder", weights(), Probe())
    assert isinstance(absent, Unavailable)
    assert "mobilefacenet_112x96.onnx" in absent.reason
    assert "`cfpp weights fetch recognition_arcface_ir_se50.pth`" in absent.reason
    assert "weights.root" in absent.reason
    assert isinstance(choose_identity("folder", weights(tmp_path), Probe()), Unavailable)
    assert isinstance(choose_identity("folder", weights(shared / "weights"), Probe()), OnnxIdentity)
    assert isinstance(choose_identity("procedural", weights(shared / "weights"), Probe()), EmbeddedIdentity)


def test_auc_and_equal_error_rate_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    wins = np.mean([1.0 if s > d else 0.5 if s == d else 0.0 for s in same for d in different])
    assert auc(same, different) == pytest.approx(wins)
    assert equal_error_rate(same, different) == pytest.approx(0.31, abs=0.05)  # Phi(-1/2) = 0.309
    assert auc(same + 100, different) == 1
    assert equal_error_rate(same + 100, different) == 0


def test_pairs_leave_out_a_picture_with_itself() -> None:
    vectors = np.eye(3)[[0, 0, 1]]
    same, different = pair_scores(vectors, vectors, ["a", "a", "b"])
    assert same.tolist() == [1, 1]
    assert sorted(different.tolist()) == [0, 0, 0, 0]

"""The instruments together: each metric by its own instrument, on any two batches of pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cfpp.config import WeightsParams
from cfpp.data.pictures import to_tensor
from cfpp.evaluation import measure
from cfpp.evaluation.identity import similarity
from cfpp.evaluation.measure import Instruments, build_instruments
from cfpp.evaluation.metrics import METRICS, landmark_error, psnr
from cfpp.evaluation.niqe import Niqe
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.catalogue import LPIPS_ALEX
from cfpp.objectives.perceptual import Perceptual, find_lpips

Pictures = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def instruments(shared: Path) -> Instruments:
    return build_instruments("folder", WeightsParams(root=str(shared / "weights"), identity="", landmarks=""))


@pytest.fixture(scope="module")
def pictures(real_faces: Pictures) -> Pictures:
    """Three real faces at 128 pixels, and the same blurred."""
    truth = np.stack([cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in real_faces[0][:3]])
    return np.stack([cv2.GaussianBlur(p, (0, 0), 1.5) for p in truth]), truth


def test_every_metric_has_an_instrument_or_a_reason(instruments: Instruments) -> None:
    needing = set(instruments.names()) | set(instruments.unavailable())
    assert needing == {m.name for m in METRICS} - {"psnr", "ssim", "nlpd", "texture", "folded"}
    assert not set(instruments.names()) & set(instruments.unavailable())
    assert instruments.names()["lpips"] == "LPIPS-squeeze (int8)"
    assert instruments.names()["angle"] == instruments.names()["identity"] == "MobileFaceNet, 128-d"
    assert f"`cfpp weights fetch {LPIPS_ALEX[0].name}`" in instruments.unavailable()["lpips_alex"]


def test_against_gives_what_each_instrument_gives(
    instruments: Instruments, pictures: Pictures, shared: Path
) -> None:
    blurred, truth = pictures
    figures = instruments.against(blurred, truth)
    assert set(figures) == {
        "psnr",
        "ssim",
        "texture",
        "nlpd",
        "lpips",
        "identity",
        "angle",
        "landmark_hq",
    }
    assert all((values.shape, values.dtype) == ((3,), np.float64) for values in figures.values())
    assert figures["psnr"] == pytest.approx(psnr(blurred, truth))
    lpips = find_lpips(str(shared / "weights"))
    assert lpips is not None
    assert figures["lpips"] == pytest.approx(lpips(to_tensor(blurred), to_tensor(truth)).numpy())
    assert not isinstance(instruments.identity, Unavailable)
    assert not isinstance(instruments.landmarks, Unavailable)
    cosine = similarity(instruments.identity.embed(blurred), instruments.identity.embed(truth))
    assert figures["identity"] == pytest.approx(cosine)
    assert np.cos(np.radians(figures["angle"])) == pytest.approx(cosine, abs=1e-6)
    points = [instruments.landmarks.detect(batch) for batch in (blurred, truth)]
    assert figures["landmark_hq"] == pytest.approx(landmark_error(*points))


class Constant(Perceptual):
    """A distance that is its number, whatever it is shown."""

    def __init__(self, number: float, name: str) -> None:
        super().__init__()
        self.number, self.name = number, name

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.full((len(a),), self.number)


def test_each_backbone_has_its_column(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"squeeze": 1.0, "alex": 2.0, "vgg": 3.0}
    monkeypatch.setattr(
        measure, "find_lpips", lambda root, backbone: Constant(numbers[backbone], f"by {backbone}")
    )
    own = build_instruments("folder", WeightsParams(root="", identity="", landmarks=""))
    figures = own.against(*pictures)
    for column, backbone in (("lpips", "squeeze"), ("lpips_alex", "alex"), ("lpips_vgg", "vgg")):
        assert figures[column].tolist() == [numbers[backbone]] * 3
        assert own.names()[column] == f"by {backbone}"


def test_measure_is_against_and_alone_and_the_landmarks_of_i_f(
    instruments: Instruments, pictures: Pictures
) -> None:
    blurred, truth = pictures
    rng = np.random.default_rng(0)
    niqe = Niqe(np.zeros(36), np.eye(36), np.full((7, 7), 1 / 49))
    own = Instruments(**{**vars(instruments), "niqe": niqe})
    batch = {
        "hq": truth,
        "id": blurred,
        "gp": (truth // 2 + rng.integers(0, 9, truth.shape)).astype(np.uint8),
    }
    figures = own.measure(batch, ["id", "gp"])
    assert set(figures) == {"id", "gp"}
    for kind, metrics in figures.items():
        alone = own.alone(batch[kind])
        assert set(alone) == {"niqe"}
        for name, values in (own.against(batch[kind], truth) | alone).items():
            assert metrics[name] == pytest.approx(values), name
    assert set(figures["gp"]) - set(figures["id"]) == {"landmark_id"}
    assert not isinstance(own.landmarks, Unavailable)
    expected = landmark_error(own.landmarks.detect(batch["gp"]), own.landmarks.detect(blurred))
    assert figures["gp"]["landmark_id"] == pytest.approx(expected)
    assert own.names()["niqe"] == "NIQE, BasicSR's parameters"


def test_each_picture_is_looked_at_once(
    instruments: Instruments, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    blurred, truth = pictures
    assert not isinstance(instruments.identity, Unavailable)
    looks, embed = [], instruments.identity.embed
    monkeypatch.setattr(instruments.identity, "embed", lambda batch: looks.append(len(batch)) or embed(batch))
    instruments.measure({"hq": truth, "id": blurred, "gp": blurred, "out": truth}, ["id", "gp", "out"])
    assert looks == [3, 3, 3, 3]


def test_without_files_what_needs_none_is_measured(pictures: Pictures) -> None:
    own = build_instruments("folder", WeightsParams(root="", identity="", landmarks=""))
    assert set(own.against(*pictures)) == {"psnr", "ssim", "texture", "nlpd"}
    assert own.alone(pictures[0]) == {}
    assert own.names() == {}
    assert all("cfpp weights fetch" in reason for reason in own.unavailable().values())


def test_niqe_is_loaded_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from cfpp.models.external import ExternalFile

    path = tmp_path / "niqe.npz"
    window = np.full((7, 7), 1 / 49)
    np.savez(path, mu_pris_param=np.ones((1, 36)), cov_pris_param=np.eye(36), gaussian_window=window)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(measure, "NIQE", (ExternalFile("niqe.npz", digest, "NIQE"),))
    own = build_instruments("procedural", WeightsParams(root=str(tmp_path), identity="", landmarks=""))
    assert isinstance(own.niqe, Niqe)
    assert own.niqe.mean.tolist() == [1] * 36

"""The restorer, with tiny models, against the three networks called one by one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cfpp.models.dam import load_dam
from cfpp.models.prior import load_prior
from cfpp.models.tgrn import load_tgrn
from cfpp.models.weights import WeightsError
from cfpp.restoration.restorer import RestoreError, Restorer
from tests.keys import sample
from tests.tiny_models import SIZE, write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))


def as_pixels(image: torch.Tensor) -> np.ndarray:
    return ((image.clamp(-1, 1).permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(np.float64)


def test_out_is_the_three_networks_in_order(models: Path, faces: np.ndarray) -> None:
    with torch.inference_mode():
        lq = torch.from_numpy(faces).permute(0, 3, 1, 2) / 127.5 - 1
        i_f, i_g = load_prior(models / "prior").restore_pair(lq)
        flow = load_dam(models / "dam")(i_g, i_f).numpy()
        rows, columns = np.mgrid[:SIZE, :SIZE]
        warped = np.stack(
            [
                [sample(c, rows + f[0], columns + f[1]).clip(-1, 1) for c in picture]
                for picture, f in zip(i_g.numpy(), flow, strict=True)
            ]
        )
        out = load_tgrn(models / "tgrn")(i_f, torch.from_numpy(warped).float())
    trace = Restorer.load(models).trace(faces)
    assert np.abs(flow).max() > 0.5, "the flow must move pixels for this test to mean anything"
    np.testing.assert_allclose(trace.flow, flow, atol=1e-4)
    np.testing.assert_array_equal(trace.lq, faces)
    for name, image in {"id": i_f, "gp": i_g, "warp": torch.from_numpy(warped), "out": out}.items():
        np.testing.assert_allclose(getattr(trace, name), as_pixels(image), atol=0.51, err_msg=name)
    assert np.abs(trace.out.astype(int) - trace.id).max() > 5


def test_restore_gives_the_same_whatever_the_batches(models: Path, faces: np.ndarray) -> None:
    restorer = Restorer.load(models)
    whole = restorer.restore(faces, batch_size=5)
    assert whole.shape == (5, SIZE, SIZE, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, restorer.trace(faces).out)
    for batch_size in (1, 2, 100):
        parts = restorer.restore(faces, batch_size=batch_size)
        assert np.abs(whole.astype(int) - parts).max() <= 1  # convolutions may sum in another order


def test_without_alignment_the_texture_comes_from_gp(models: Path, faces: np.ndarray, tmp_path: Path) -> None:
    unaligned = Restorer.load(write_models(tmp_path, alignment="none"))
    aligned = Restorer.load(models)
    assert (unaligned.texture, aligned.texture) == ("gp", "warp")
    mine, other = unaligned.trace(faces), aligned.trace(faces)
    np.testing.assert_array_equal(mine.gp, other.gp)
    assert (mine.out != other.out).any()


def test_fusing_another_priors_pictures_is_restoring_without_the_prior(
    models: Path, faces: np.ndarray, tmp_path: Path
) -> None:
    trace = Restorer.load(models).trace(faces)
    foreign = Restorer.load(write_models(tmp_path, prior_kind="folder"))
    out = foreign.fuse(trace.id, trace.gp, batch_size=2)
    # only the rounding of I_F and I_G to 8 bits is between the two
    assert np.abs(out.astype(int) - trace.out).max() <= 3
    with pytest.raises(RestoreError, match="give it I_F and I_G"):
        foreign.restore(faces)
    with pytest.raises(RestoreError, match="do not fit"):
        foreign.fuse(trace.id, trace.gp[:2])


def test_w_scales_the_residual_of_tgrn(models: Path, faces: np.ndarray) -> None:
    restorer = Restorer.load(models)
    trace = restorer.trace(faces)
    i_f, out = trace.id.astype(float), trace.out.astype(float)
    np.testing.assert_array_equal(restorer.restore(faces, w=0), trace.out)
    np.testing.assert_array_equal(restorer.restore(faces, w=1), trace.id)
    for w in (0.25, 0.7):
        # each of the three was rounded, and what lies outside of [0, 255] was clipped
        inside = (out > 0) & (out < 255) & (i_f > 0) & (i_f < 255)
        error = np.abs(restorer.restore(faces, w=w) - (w * i_f + (1 - w) * out))
        assert error[inside].max() <= 1.01
        fused = restorer.fuse(trace.id, trace.gp, w=w).astype(int)
        assert np.abs(fused - restorer.restore(faces, w=w)).max() <= 3
    for w in (-0.1, 1.01, float("nan")):
        with pytest.raises(RestoreError, match="must be 0 to 1"):
            restorer.restore(faces, w=w)


def test_a_prior_of_another_size_is_refused(models: Path, tmp_path: Path) -> None:
    write_models(tmp_path)
    card = json.loads((tmp_path / "tgrn" / "card.json").read_text())
    card["config"]["size"] = 512
    (tmp_path / "tgrn" / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=r"for faces of 64 pixels; .* trained at 512"):
        Restorer.load(tmp_path)


@pytest.mark.parametrize("side", [16, 100, 256])
def test_faces_of_any_resolution_come_out_at_the_models_size(models: Path, side: int) -> None:
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    face = np.broadcast_to(ramp[None, :, None], (side, side, 3)).copy()
    trace = Restorer.load(models).trace(face[None])
    assert trace.out.shape == (1, SIZE, SIZE, 3)
    expected = np.interp((np.arange(SIZE) + 0.5) * side / SIZE - 0.5, np.arange(side), ramp.astype(float))
    np.testing.assert_allclose(trace.lq[0, 7, :, 1], expected, atol=255 / min(side, SIZE))


def test_no_faces_give_no_faces(models: Path) -> None:
    restorer = Restorer.load(models)
    assert restorer.restore(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, SIZE, SIZE, 3)
    with pytest.raises(RestoreError, match="no pictures"):
        restorer.trace(np.zeros((0, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 48, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((1, 0, 0, 3), np.uint8),
    ],
)
def test_what_is_no_aligned_face_is_refused(models: Path, pictures: np.ndarray) -> None:
    with pytest.raises(RestoreError):
        Restorer.load(models).restore(pictures)


def test_models_in_the_wrong_place_or_untrained_are_refused(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "swapped")
    with pytest.raises(WeightsError, match="dam"):
        Restorer.load_parts(*(tmp_path / "swapped" / part for part in ("prior", "tgrn", "dam")))
    with pytest.raises(WeightsError, match="not found"):
        Restorer.load(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="never trained"):
        Restorer.load(write_models(tmp_path / "fresh", steps=0))

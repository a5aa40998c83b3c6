"""The joint forward: what its options may change, and what happens when memory runs out."""

import logging
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cfpp.data.procedural.render import render
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import load_prior
from cfpp.synthesis.forward import JointForward
from cfpp.training_params import NetworkParams
from pipelines.prior import EMBEDDED
from tests.tiny_models import NETWORK, SIZE

CPU = torch.device("cpu")


def randomised(network: NetworkParams, size: int) -> CodeFormer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CodeFormer(network, size)
        # a random encoder gives every position nearly the same code; this one tells them apart
        torch.nn.init.normal_(model.idx_pred_layer[1].weight, 0.0, 1.0)
        for block in model.fuse_convs_dict.values():  # fusing starts at changing nothing
            torch.nn.init.normal_(block.shift[2].weight, 0.0, 0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def prior() -> CodeFormer:
    return randomised(NETWORK, SIZE)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


class Cramped:
    """A prior in a memory that holds so many faces at a time. Restores by negating and by mirroring."""

    def __init__(
        self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError, message: str = "no room"
    ) -> None:
        self.room, self.seen, self.error, self.message = room, list[int](), error, message
        self.held: weakref.ref[Tensor] | None = None

    def restore_pair(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(len(lq))
        if len(lq) > self.room:
            held = lq.clone()
            self.held = weakref.ref(held)  # what a failed forward has computed so far
            raise self.error(self.message)
        assert self.held is None or self.held() is None, "the failed batch still takes its memory"
        return -lq, lq.flip(3)


def test_it_is_the_two_separate_forwards(prior: CodeFormer, faces: np.ndarray) -> None:
    restored = JointForward(prior, CPU)(faces)
    with torch.inference_mode():
        lq = torch.from_numpy(faces).permute(0, 3, 1, 2) / 127.5 - 1
        for w, found in ((1.0, restored.id), (0.0, restored.gp)):
            expected = (prior(lq, w).picture.clamp(-1, 1).permute(0, 2, 3, 1).numpy() + 1) * 127.5
            assert np.abs(found - expected).max() <= 0.5 + 127.5 * 1e-3
    assert restored.finite.all()
    assert (restored.id != restored.gp).any()


def test_a_layout_and_a_compiler_are_used_and_change_nothing_that_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = randomised(replace(NETWORK, multipliers=(1, 1), fuse=(32,)), 32)
    faces = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or compile_(function))
    plain = JointForward(small, CPU)(faces)
    assert (plain.id != plain.gp).any()
    weight = small.encoder.blocks[0].weight
    for option in ({"channels_last": True}, {"compiled": True}):
        other = JointForward(small, CPU, **option)(faces)
        assert weight.is_contiguous(memory_format=torch.channels_last) == ("channels_last" in option)
        for name in ("id", "gp"):
            difference = np.abs(getattr(other, name).astype(int) - getattr(plain, name))
            assert difference.max() <= 1, option
    assert compiled == [small.restore_pair]


def test_half_precision_is_near_and_not_the_same() -> None:
    # The trained prior: between random codes bf16 would decide by chance.
    faces = np.stack([render(0, person, 0, 128).picture for person in range(2)])
    plain = JointForward(load_prior(EMBEDDED), CPU)(faces)
    half = JointForward(load_prior(EMBEDDED), CPU, precision="bf16")(faces)
    for name in ("id", "gp"):
        error = (getattr(half, name).astype(float) - getattr(plain, name)) ** 2
        assert 0 < error.mean() < 255**2 / 10**3  # 30 dB


def test_out_of_memory_halves_the_batch_and_goes_on(
    faces: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    cramped = Cramped(room=2)
    forward = JointForward(cramped, CPU)
    with caplog.at_level(logging.WARNING):
        restored = forward(faces)
    assert cramped.seen == [5, 2, 2, 1]
    assert (restored.gp == faces[:, :, ::-1]).all()
    assert "out of memory with 5 faces at a time; going on with 2" in caplog.text
    cramped.seen.clear()
    assert (forward(faces).gp == faces[:, :, ::-1]).all()
    assert cramped.seen == [2, 2, 1], "it must remember"


def test_the_peak_of_memory_is_told_once_and_again_after_halving(
    faces: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        found = re.findall(
            r"(\d+) faces at a time: memory \d+ MiB at the peak, -?\d+\.\d a face", caplog.text
        )
        caplog.clear()
        return found

    forward = JointForward(Cramped(room=5), CPU)
    with caplog.at_level(logging.INFO):
        forward(faces)
        forward(faces)
        assert told() == ["5"]
        forward(np.concatenate([faces, faces]))
        assert told() == ["5"]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_a_library_that_finds_no_memory_counts(faces: np.ndarray, message: str) -> None:
    assert (JointForward(Cramped(2, RuntimeError, message), CPU)(faces).gp == faces[:, :, ::-1]).all()


def test_no_other_failure_halves_the_batch(faces: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        JointForward(Cramped(2, RuntimeError, "CUDA error: an illegal memory access"), CPU)(faces)


def test_a_face_that_does_not_fit_alone_is_an_error(faces: np.ndarray) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        JointForward(Cramped(room=0), CPU)(faces)

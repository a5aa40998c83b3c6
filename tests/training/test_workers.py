"""Several workers: the same weights as one, whatever each of them used."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from cfpp.training import engine
from cfpp.training.checkpoint import FolderCheckpoints
from cfpp.training.gradients import average_gradients
from cfpp.training.job import TrainingError
from cfpp.training.sinks import Silent

from .toy import PARAMS, PaintSpec, job, run

SPEC = PaintSpec(extra_every=3, discriminator_start=4)


def _worker(rank: int, folder: str, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    _check_unused_parameters(rank)
    result = engine.run(
        job(spec=SPEC, params=replace(PARAMS, workers=2)),
        checkpoints=FolderCheckpoints(Path(folder, "checkpoints"), 2),
        sink=Silent(),
        rank=rank,
        world=2,
    )
    torch.save(result.weights, Path(folder, f"weights{rank}.pt"))
    try:  # one worker's broken loss must end both, not hang the other
        engine.run(
            job(spec=replace(SPEC, poison_at=2 if rank == 0 else None), params=replace(PARAMS, workers=2)),
            checkpoints=FolderCheckpoints(Path(folder, "poisoned"), 2),
            sink=Silent(),
            rank=rank,
            world=2,
        )
    except TrainingError as error:
        Path(folder, f"error{rank}").write_text(str(error))
    dist.destroy_process_group()


def _check_unused_parameters(rank: int) -> None:
    both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        one.grad = torch.tensor([4.0, 8.0])
    average_gradients([both, one, none], 2)
    assert both.grad.tolist() == [1.5, 3.0]
    assert one.grad is not None
    assert one.grad.tolist() == [2.0, 4.0]
    assert none.grad is None


@pytest.mark.slow
def test_two_workers_are_one_that_accumulates_twice(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_worker, args=(str(tmp_path), port), nprocs=2)
    first, second = (torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = run(tmp_path / "alone", job(spec=SPEC, params=replace(PARAMS, accumulate=2))).weights
    for key in alone:
        if key != "seen":
            assert torch.equal(first[key], second[key])
            torch.testing.assert_close(first[key], alone[key], rtol=1e-4, atol=1e-6)
    for rank in (0, 1):
        assert "step 2" in (tmp_path / f"error{rank}").read_text()

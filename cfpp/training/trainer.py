"""A run in memory: networks, optimisers, average, and what one step does to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cfpp.objectives.adversarial import held_fixed, hinge_discriminator_loss
from cfpp.objectives.base import Batch
from cfpp.training.checkpoint import State
from cfpp.training.ema import Ema
from cfpp.training.gradients import average_gradients, broadcast
from cfpp.training.job import TrainingError, TrainJob
from cfpp.training.schedule import learning_rate


class Trainer:
    """Builds a job's objective and takes its steps.

    Args:
        job: what is trained, on what.
        device: of the networks.
        rank, world: this worker and how many there are (default process group of torch.distributed).

    Raises:
        TrainingError: the objective has nothing to train.
    """

    def __init__(self, job: TrainJob, device: torch.device, rank: int, world: int) -> None:
        self.job, self.device, self.rank, self.world = job, device, rank, world
        self._draws = int.from_bytes(hashlib.sha256(f"{job.seed} {job.name}".encode()).digest()[:6])
        torch.manual_seed(self._draws)
        self.objective = job.spec.build().to(device)
        if job.params.channels_last:
            self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.discriminator = self.objective.model, self.objective.discriminator
        self.objective.eval()  # frozen networks stay so
        self.model.train()
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        if not self._trained:
            raise TrainingError(f"{job.name}: the model has no parameter to train")
        self._judging: list[nn.Parameter] = []
        if self.discriminator is not None:
            self.discriminator.train()
            self._judging = list(self.discriminator.parameters())
        networks = [self.model] if self.discriminator is None else [self.model, self.discriminator]
        broadcast((value for network in networks for value in network.state_dict().values()), world)
        self.ema = Ema(self.model, job.params.ema_decay)
        self.optimiser = self._adam(self._trained)
        self.judge = self._adam(self._judging) if self._judging else None

    def _adam(self, parameters: list[nn.Parameter]) -> torch.optim.Adam:
        params = self.job.params
        return torch.optim.Adam(parameters, lr=params.learning_rate, betas=params.betas, fused=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the params ask for it."""
        if self.job.params.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def step(self, batches: Iterator[Batch], step: int) -> list[dict[str, Tensor]]:
        """One optimiser step of the model and, from ``discriminator_start`` on, of the discriminator.

        Args:
            batches: gives this step's micro-batches.
            step: 0-based.

        Returns:
            The figures of each micro-batch, detached, still on the device.
        """
        params, figures = self.job.params, []
        # Whatever the losses draw depends on the step alone, so that a resumed run draws the same.
        torch.manual_seed(self._draws + step * self.world + self.rank)
        adversarial = self.judge is not None and step >= self.objective.discriminator_start
        for _ in range(params.accumulate):
            batch = next(batches)
            with self.autocast(), self._discriminator_held():
                result = self.objective.step(batch, step)
            (result.loss / params.accumulate).backward()
            entry = {**result.logs, "loss": result.loss.detach()}
            if adversarial and result.fake is not None and result.real is not None:
                entry["discriminator"] = self._judge(result.real, result.fake.detach())
            figures.append(entry)
        rate = learning_rate(params, step)
        self._update(self.optimiser, self._trained, rate)
        if adversarial and self.judge is not None:
            self._update(self.judge, self._judging, rate)
        self.ema.update(step)
        return figures

    def _discriminator_held(self) -> AbstractContextManager[None]:
        return nullcontext() if self.discriminator is None else held_fixed(self.discriminator)

    def _judge(self, real: Tensor, fake: Tensor) -> Tensor:
        assert self.discriminator is not None
        with self.autocast():
            loss = hinge_discriminator_loss(self.discriminator(real), self.discriminator(fake))
        (loss / self.job.params.accumulate).backward()
        return loss.detach()

    def _update(self, optimiser: torch.optim.Adam, parameters: list[nn.Parameter], rate: float) -> None:
        average_gradients(parameters, self.world)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        return bool(torch.stack([weight.isfinite().all() for weight in self._trained]).all())

    def state(self) -> State:
        """Everything that a later `restore` needs, in types that load without running code."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "discriminator": self.discriminator.state_dict() if self.discriminator is not None else None,
            "judge": self.judge.state_dict() if self.judge is not None else None,
        }

    def restore(self, state: State) -> None:
        """Go back to what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.discriminator is not None and self.judge is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.judge.load_state_dict(state["judge"])

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, copied to the CPU."""
        return {key: value.detach().cpu().clone() for key, value in self.ema.module.state_dict().items()}

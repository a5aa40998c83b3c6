"""The training loop on Ray Train: workers, failures, checkpoints in shared storage."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from cfpp.progress import Lines
from cfpp.storage import place_of, s3_filesystem
from cfpp.training import engine
from cfpp.training.checkpoint import STATE_FILE, State, read_state, write_state
from cfpp.training.job import TrainingError, TrainJob, TrainResult, curve_path
from cfpp.training.sinks import Silent, SinkSpec

log = logging.getLogger(__name__)

# Ray Train's defaults poll every 2 s, which a short run notices, and give up on a cluster that takes more
# than a minute to bring up machines.
_RAY_TRAIN_DEFAULTS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}


class _RayCheckpoints:
    """Checkpoints that Ray Train copies to the run's storage. `save` is a barrier over the workers."""

    def load(self) -> State | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return read_state(Path(folder, STATE_FILE))

    def save(self, state: State | None, name: str, metrics: dict[str, float]) -> None:
        import ray.train

        if state is None:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory(prefix="cfpp-checkpoint-") as folder:
            write_state(state, Path(folder, STATE_FILE))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=checkpoint, checkpoint_dir_name=name)


def fit(job: TrainJob, *, name: str, storage: str, sink: SinkSpec) -> TrainResult:
    """Train in one Ray Train run, or go on with the run of that name.

    A worker that dies is replaced ``max_failures`` times, from the last checkpoint. A loss that is not finite
    is not tried again: it would come back.

    Args:
        job: what is trained, on what.
        name: of the run, see `cfpp.training.job.run_name`. The same name goes on where it was.
        storage: absolute path or URI that all workers see.
        sink: opened on rank 0 only.

    Raises:
        TrainingError: the loss is not finite, a worker failed too often, or storage is relative.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    if "://" not in storage and not Path(storage).is_absolute():
        raise TrainingError(
            f"{storage}: the storage of a run must be absolute, workers have folders of their own"
        )
    params = job.params
    for key, value in _RAY_TRAIN_DEFAULTS.items():
        os.environ.setdefault(key, value)
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    threads = params.threads
    if "RAY_ADDRESS" not in os.environ:
        # This machine will not grow: more than it has would wait for ever, and more threads only share cores.
        has = ray.cluster_resources()
        threads = min(threads, max(1, int(has.get("CPU", 1)) // params.workers))
        if params.use_gpu and params.workers > has.get("GPU", 0):
            raise TrainingError(
                f"{job.name}: {params.workers} workers take a GPU each (train.workers, train.use_gpu); "
                f"Ray has {has.get('GPU', 0):g} here"
            )
    trainer = TorchTrainer(
        _loop(job, name, storage, sink, moving_bars=sys.stderr.isatty()),
        scaling_config=ScalingConfig(
            num_workers=params.workers,
            use_gpu=params.use_gpu,
            resources_per_worker={"CPU": threads, **({"GPU": 1} if params.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=name,
            **_place(storage),
            checkpoint_config=CheckpointConfig(num_to_keep=params.keep),
            failure_config=FailureConfig(max_failures=params.max_failures),
        ),
    )
    log.info("run %s in %s: %d steps", name, storage, params.steps)
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(
            f"{name}: {_first_cause(error)}; run again to go on from its checkpoint"
        ) from error
    returned: dict[str, Any] = result.return_value or {}
    if returned.get("failure"):
        raise TrainingError(f"{name}: {returned['failure']}")
    if result.checkpoint is None:
        raise TrainingError(f"{name}: ended without a checkpoint in {storage}")
    with result.checkpoint.as_directory() as folder:
        state = read_state(Path(folder, STATE_FILE))
    return TrainResult(
        weights=state["ema"],
        metrics=state["metrics"],
        curves=state["curves"],
        steps=state["step"],
        run=name,
        folder=f"{storage.rstrip('/')}/{name}",
        images_per_second=returned.get("images_per_second"),
    )


def _loop(job: TrainJob, name: str, storage: str, sink: SinkSpec, moving_bars: bool) -> Any:
    def loop() -> dict[str, Any]:
        import ray.train
        import ray.train.torch
        from ray.experimental import tqdm_ray

        logging.getLogger("cfpp").setLevel(logging.INFO)
        context = ray.train.get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        device = ray.train.torch.get_device() if job.params.use_gpu else torch.device("cpu")
        try:
            result = engine.run(
                job,
                checkpoints=_RayCheckpoints(),
                sink=sink.open() if rank == 0 else Silent(),
                device=device,
                rank=rank,
                world=world,
                curve_file=curve_path(storage, name),
                bar=tqdm_ray.tqdm if moving_bars else Lines,
            )
        except TrainingError as error:  # every worker sees the same figures, so every worker ends here
            return {"failure": str(error)}
        return {"images_per_second": result.images_per_second}

    return loop


def _place(storage: str) -> dict[str, Any]:
    """Where Ray Train writes: our S3, with our endpoint, or a folder."""
    place = place_of(storage)
    if isinstance(place, Path):
        return {"storage_path": str(place)}
    return {"storage_path": place.key, "storage_filesystem": s3_filesystem()}


def _first_cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    cause: BaseException = next(iter(failures.values()), error)
    text = str(cause).strip().splitlines()
    return text[-1] if text else type(cause).__name__

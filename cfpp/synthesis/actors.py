"""Shards on Ray Data actors: rows of the plan stream in, rows of the manifest stream out.

No picture passes through Ray: an actor reads and writes whole shards itself, so the object store holds a few
hundred bytes per shard, and memory does not grow with their number.
"""

import logging
import math
import os
import pickle
from collections.abc import Generator, Sequence
from typing import Any

from cfpp.config import ResourceParams
from cfpp.data.manifest import MANIFEST_FILE, shard_path
from cfpp.data.shards import DataError
from cfpp.errors import MendableError
from cfpp.storage import LOCAL, Place, place_of, size_of
from cfpp.synthesis.shard_work import ShardOutcome, ShardTask, ShardWorker, WorkerSpec, make_shard

DEATHS = 5  # of workers over one and the same shard, before the stage gives up


class Actor:
    """What Ray Data keeps alive: one worker, one thread, so that bytes do not depend on the machine."""

    def __init__(self, spec: bytes, folder: str, config_hash: str) -> None:
        import cv2
        import torch

        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("cfpp").setLevel(logging.INFO)  # Ray passes it on to the driver
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        self.folder, self.config_hash = place_of(folder), config_hash
        self.worker: ShardWorker | None = None
        self.failure: MendableError | None = None
        try:
            if size_of(self.folder / MANIFEST_FILE) is None:  # the driver has just written it
                raise DataError(
                    f"{folder}: a worker does not see it; storage.root must be shared by all nodes"
                )
            self.worker = pickle.loads(spec).build()
        except MendableError as error:
            self.failure = error

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        outcomes = [pickle.dumps(self._make(pickle.loads(task))) for task in batch.column("task").to_pylist()]
        return pyarrow.table({"outcome": pyarrow.array(outcomes, pyarrow.binary())})

    def _make(self, task: ShardTask) -> ShardOutcome | MendableError:
        """Errors are returned, for Ray's own wrapping loses the type on the way."""
        if self.worker is None:
            assert self.failure is not None
            return self.failure
        try:
            return make_shard(task, self.worker, self.folder, self.config_hash)
        except MendableError as error:
            return error
        except OSError as error:
            if error.errno not in LOCAL:
                raise
            return DataError(
                f"{shard_path(self.folder, task.split, task.shard)}: {error.strerror}; make room and run "
                f"again: finished shards are kept"
            )


def on_ray(
    tasks: Sequence[ShardTask], spec: WorkerSpec, folder: Place, config_hash: str, resources: ResourceParams
) -> Generator[ShardOutcome, None, None]:
    """Make the shards, yielding each as it is done; Ray must run.

    Raises:
        DataError: this machine has less than one actor takes, or workers die again and again.
        MendableError: what a worker could not do, and a person can mend.
    """
    import ray
    from ray.exceptions import RayActorError

    if "RAY_ADDRESS" not in os.environ:  # this machine will not grow, so waiting would never end
        has = {"CPU": math.inf} | ray.cluster_resources()  # cores may not have been counted yet
        for name, needed in (("CPU", resources.cpus), ("GPU", resources.gpus)):
            if needed > has.get(name, 0):
                raise DataError(
                    f"an actor takes {needed:g} {name}s (resources of the stage in params.yaml), Ray has "
                    f"{has.get(name, 0):g} here"
                )

    ray.data.DataContext.get_current().enable_progress_bars = False  # ours shows shards
    most = min(resources.max_actors, len(tasks))
    memory = {"memory": resources.memory_gb * 2**30} if resources.memory_gb else {}
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_kwargs={"spec": pickle.dumps(spec), "folder": str(folder), "config_hash": config_hash},
        batch_size=1,
        batch_format="pyarrow",
        # A cluster with fewer free cores than actors goes slower, it does not hang.
        compute=ray.data.ActorPoolStrategy(
            min_size=min(resources.min_actors, most),
            max_size=most,
            initial_size=most,
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_task_retries=DEATHS,
        **memory,
    )
    try:
        for batch in results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for outcome in map(pickle.loads, batch.column("outcome").to_pylist()):
                if isinstance(outcome, MendableError):
                    raise outcome
                yield outcome
    except RayActorError as error:
        raise DataError(
            f"workers died {DEATHS + 1} times over one shard, as they do when memory runs out: lower "
            f"batch_size, or reserve more in resources.memory_gb; finished shards are kept ({error})"
        ) from error

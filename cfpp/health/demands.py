"""What the params ask of this machine: cores, memory, shared memory and disk."""

import configparser
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cfpp.config import Params, ResourceParams
from cfpp.health.finding import Finding, ok, problem, warning
from cfpp.training_params import TrainParams

GIB = 1 << 30
OBJECT_STORE = 1 << 30  # bytes that the Ray head of a `dvc repro` takes for its object store
RAY_FULL = 0.95  # share of the disk beyond which Ray writes no objects
AHEAD = 3  # batches that each loader process reads ahead

# Bytes on disk for each pixel, measured on the embedded faces and on photographs at 128 x 128, the larger of
# the two: a face's shard, and each of its variants' restored pictures and pairs.
FACE_BYTES, VARIANT_BYTES = 1.9, 8.8


def trainings(params: Params) -> dict[str, TrainParams]:
    """The trainings that these params run, by their key."""
    found = {"train_dam": params.train_dam.train, "train_tgrn": params.train_tgrn.train}
    if params.prior.source == "train":
        prior = params.prior
        found |= {
            "prior.codebook": prior.codebook.train,
            "prior.code_prediction": prior.code_prediction.train,
            "prior.fusion": prior.fusion.train,
        }
    return {f"{name}.train": training for name, training in found.items()}


def resources(params: Params) -> dict[str, ResourceParams]:
    """What the stages of Ray Data ask for, by its key."""
    return {
        "data.resources": params.data.resources,
        "synthesize.resources": params.synthesize.resources,
        "pair.resources": params.pair.resources,
    }


def gpu_keys(params: Params) -> list[str]:
    """The keys that ask for a GPU."""
    trained = [f"{name}.use_gpu" for name, training in trainings(params).items() if training.use_gpu]
    return trained + [f"{name}.gpus" for name, needs in resources(params).items() if needs.gpus]


def check_cores(params: Params, cores: int) -> Finding:
    """The machine's cores against actors, workers and threads."""
    too_many, slow = [], []
    for name, needs in resources(params).items():
        if needs.min_actors * needs.cpus > cores:
            too_many.append(f"{name}: {needs.min_actors} actors of {needs.cpus:g} cores")
    for name, training in trainings(params).items():
        if training.workers > cores:
            too_many.append(f"{name}.workers: {training.workers}")
        elif training.workers * training.threads > cores:
            slow.append(f"{name}: {training.workers} workers of {training.threads} threads")
        if training.workers * training.loader_workers > cores:
            slow.append(f"{name}: {training.workers} workers of {training.loader_workers} loader_workers")
    if too_many:
        return problem(
            "cores",
            f"{cores}; Ray would wait for ever for {'; '.join(too_many)}",
            "ask for less in params.yaml",
        )
    if slow:
        return warning("cores", f"{cores}, fewer than {'; '.join(slow)}", "ask for less in params.yaml")
    return ok("cores", f"{cores}, enough for the params")


def check_memory(params: Params, total: int, available: int) -> Finding:
    """Memory, bytes, against what actors set aside and Ray's object store takes."""
    message = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    for name, needs in resources(params).items():
        if needs.min_actors * needs.memory_gb * GIB > total:
            return problem(
                "memory",
                f"{message}; Ray would wait for ever for {name}, "
                f"{needs.min_actors} x {needs.memory_gb:g} GiB",
                f"lower {name}.memory_gb or min_actors",
            )
    if available < 2 * OBJECT_STORE:
        return warning(
            "memory", f"{message}; Ray's object store alone may take 1 GiB", "end what else uses memory"
        )
    return ok("memory", message)


def check_shared_memory(params: Params, total: int | None) -> Finding:
    """/dev/shm, bytes, against Ray's object store and the batches that loader processes hand over.

    Args:
        total: None where there is no /dev/shm (macOS).
    """
    subject = "shared memory"
    if total is None:
        return ok(subject, "no /dev/shm on this system")
    message = f"/dev/shm holds {total / GIB:.2f} GiB"
    advice = "in Docker: --shm-size=4g; on Kubernetes: an emptyDir with medium: Memory at /dev/shm"
    handed = max(_handed_over(training, params.run.size) for training in trainings(params).values())
    if handed > total:
        return problem(
            subject,
            f"{message}, the loader processes' batches need {handed / GIB:.2f}",
            f"{advice}; or loader_workers: 0",
        )
    if total < OBJECT_STORE + handed:
        return warning(
            subject, f"{message}; Ray's object store of 1 GiB would lie on the disk, which is slow", advice
        )
    return ok(subject, message)


def check_disk(params: Params, root: Path, faces: int | None) -> Iterator[Finding]:
    """Room where the data, DVC's cache and temporary files go.

    Args:
        faces: how many there will be; None: not known.
    """
    need = 0 if faces is None or "://" in params.storage.root else data_bytes(params, faces)
    cache = _dvc_cache(root)
    # links cost nothing, but DVC copies where the cache lies on another disk
    same = _existing(cache).stat().st_dev == _existing(root).stat().st_dev
    yield check_room("project", root, need, "name another place in storage.root")
    if not same:
        yield check_room("DVC cache", cache, need, "move it, and name its new place by `dvc cache dir`")
    temporary = Path(tempfile.gettempdir())
    yield check_room("temporary files", temporary, 0, "name a folder on another disk in TMPDIR")


def check_room(name: str, path: Path, need: int, elsewhere: str) -> Finding:
    """Free space at `path` against `need`, bytes.

    Args:
        elsewhere: how to have another place used, for the remedy.
    """
    subject = f"disk, {name}"
    usage = shutil.disk_usage(_existing(path))
    message = f"{usage.free / GIB:.1f} GiB free at {path}"
    if need:
        message += f"; data/ takes about {need / GIB:.1f}"
    if usage.free < need + GIB:
        return problem(subject, message, f"make room, or {elsewhere}")
    if usage.free < 2 * need or usage.used > RAY_FULL * usage.total:
        return warning(
            subject, message, f"make room; Ray spills nothing to a disk that is {RAY_FULL:.0%} full"
        )
    return ok(subject, message)


def data_bytes(params: Params, faces: int) -> int:
    """What data/ takes for so many faces, roughly."""
    return int(faces * params.run.size**2 * (FACE_BYTES + VARIANT_BYTES * params.synthesize.variants))


def cores_here() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared_memory_here() -> int | None:
    """Size of /dev/shm, bytes; None where there is none."""
    return shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None


def _handed_over(training: TrainParams, size: int) -> int:
    """Bytes of the batches that wait in shared memory, all loader processes of this machine together."""
    columns = 6  # pictures of a sample at most, float32 of three channels
    batch = training.batch_size // training.accumulate * columns * 3 * size**2 * 4
    return training.loader_workers * AHEAD * batch


def _dvc_cache(root: Path) -> Path:
    """Where DVC keeps its cache, which a config file names from .dvc."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return root / ".dvc" / config.get("cache", "dir", fallback="cache")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)

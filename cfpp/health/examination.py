"""All checks in their order; one that itself fails is a finding like the others."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

from cfpp.health import demands, installation, project, services
from cfpp.health.finding import Finding, problem


def examine(root: Path, start_ray: bool) -> Iterator[Finding]:
    """Look at this machine and at the project in `root`, one finding after the other.

    Args:
        start_ray: start a local Ray, which takes seconds.
    """
    address = os.environ.get("RAY_ADDRESS")
    yield from safely("Python", installation.check_python)
    yield from safely("packages", installation.check_packages)
    yield from safely("torch", installation.check_torch)
    yield from safely("Ray", lambda: services.check_ray(address, start_ray))
    read, params = project.check_params(root / "params.yaml")
    yield read
    if not (root / "params.yaml").is_file():
        return  # not a project: whatever is said of this folder would mislead
    yield from safely("git and DVC", lambda: project.check_git(root))
    yield from safely("telemetry", lambda: project.check_telemetry(root))
    if params is None:
        yield problem("the rest", "not checked: it depends on params.yaml", "mend that, then run this again")
        return

    faces: list[int | None] = [None]

    def data() -> Finding:
        finding, faces[0] = project.check_data(params, root)
        return finding

    local, memory = not address, psutil.virtual_memory()
    yield from safely("GPU", lambda: installation.check_gpu(demands.gpu_keys(params), not local))
    yield from safely("faces", data)
    yield from safely("prior", lambda: project.check_checkpoint(params, root))
    yield from safely("weights", lambda: project.check_weights(params, root))
    yield from safely("face detector", lambda: project.check_detector(params, root))
    yield from safely("storage", lambda: project.check_storage(params, root))
    yield from safely("disk", lambda: demands.check_disk(params, root, faces[0]))
    if local:  # elsewhere the cluster's machines count, not this one
        yield from safely("cores", lambda: demands.check_cores(params, demands.cores_here()))
        yield from safely("memory", lambda: demands.check_memory(params, memory.total, memory.available))
        yield from safely(
            "shared memory", lambda: demands.check_shared_memory(params, demands.shared_memory_here())
        )
    yield from safely("tracking store", lambda: services.check_tracking(params, root))


def safely(subject: str, check: Callable[[], Finding | Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; its own failure is a problem."""
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except Exception as error:  # whatever is wrong with the machine, the other checks go on
        yield problem(
            subject,
            f"the check itself failed: {type(error).__name__}: {error}",
            "please report this as a defect",
        )

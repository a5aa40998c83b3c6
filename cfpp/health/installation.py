"""Whether Python, the packages, torch and its GPU are what the project needs."""

import importlib
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cfpp.health.finding import Finding, ok, problem, warning

# -B: the stamp is there already, and says nothing of what was changed by hand since
INSTALL = "run `make -B .venv/.ready` in the project, then `source .venv/bin/activate`"
ANEW = f"remove .venv, then {INSTALL}"  # make keeps its Python, and each package of the right version
GIB = 1 << 30


def check_python(version: str = platform.python_version(), package: str = "cfpp") -> Finding:
    """The interpreter against what the installed `package` asks for."""
    try:
        wanted = metadata.metadata(package)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return problem("Python", f"{version}; {package} is not installed for it", INSTALL)
    if version in SpecifierSet(wanted, prereleases=True):
        return ok("Python", version)
    return problem("Python", f"{version}, needed {wanted}", f"install such a Python; {ANEW}")


def check_packages(requirements: list[str] | None = None) -> Finding:
    """Installed versions against `requirements`, as pip writes them; by default those of cfpp itself."""
    if requirements is None:
        try:
            requirements = metadata.requires("cfpp") or []
        except metadata.PackageNotFoundError:
            return problem("packages", "cfpp is not installed", INSTALL)
    wanted = [Requirement(text) for text in requirements]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = []
    for item in wanted:
        try:
            found = metadata.version(item.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{item.name} is missing")
            continue
        if not item.specifier.contains(found, prereleases=True):
            wrong.append(f"{item.name} {found}, needed {item.specifier}")
    if wrong:
        return problem("packages", "; ".join(wrong), INSTALL)
    return ok("packages", f"all {len(wanted)} that cfpp needs, in versions that fit")


def check_torch(load: Callable[[str], Any] = importlib.import_module) -> Finding:
    """Whether torch and torchvision import and fit each other: builds that do not fail only when used."""
    try:
        torch, torchvision = load("torch"), load("torchvision")
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
        kept = load("torchvision.ops").nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
    except Exception as error:  # a broken build raises whatever it comes upon
        return problem("torch", f"does not work: {_line(error)}", f"install the pair anew: {ANEW}")
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if kept.tolist() != [0]:
        return problem("torch", f"{versions}: torchvision computes nonsense", ANEW)
    return ok("torch", versions)


def check_gpu(asked_by: list[str], on_cluster: bool) -> Finding:
    """The GPUs of this machine, and whether the params ask for what is not there.

    Args:
        asked_by: the keys of params.yaml that ask for a GPU.
        on_cluster: the stages run elsewhere.
    """
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        message = f"{names}, CUDA {torch.version.cuda}, bf16 {'yes' if bf16 else 'no'}"
        if not bf16:
            return warning("GPU", message, "set precision: fp32 in params.yaml; bf16 is slow on this GPU")
        return ok("GPU", message)
    built = torch.version.cuda
    why = (
        f"torch {torch.__version__} is built without CUDA"
        if built is None
        else f"torch for CUDA {built} sees none"
    )
    if shutil.which("nvidia-smi") and not asked_by:
        return warning(
            "GPU", f"there is a driver, but {why}", f"see what `nvidia-smi` says; CUDA {built or 'build'}"
        )
    if asked_by and not on_cluster:
        return problem(
            "GPU",
            f"{why}, but {', '.join(asked_by)} ask for one",
            "set use_gpu: false and gpus: 0, or send the stages to a cluster by RAY_ADDRESS; where this "
            "machine has a GPU, mend its driver (`nvidia-smi`) and install torch's CUDA build",
        )
    return ok("GPU", f"none: {why}; the stages compute on the CPU")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

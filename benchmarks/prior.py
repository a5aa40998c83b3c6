"""I_F and I_G from one joint forward, against two separate forwards of the same network, at 512 x 512.

python -m benchmarks.prior

The network is the official CodeFormer with random weights: speed does not depend on them. On the CPU in
float32; where there is a GPU, also in bf16, channels last and compiled against two eager float32 forwards.
"""

import resource
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import ratio, report
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import OFFICIAL_NETWORK, OFFICIAL_SIZE, load_prior
from cfpp.synthesis.forward import JointForward
from pipelines.prior import EMBEDDED

CPU_RUNS, GPU_BATCH = 5, 32
MATMUL_SIDE = 8192


def main() -> None:
    torch.manual_seed(0)
    prior = CodeFormer(OFFICIAL_NETWORK, OFFICIAL_SIZE).eval().requires_grad_(False)
    faces = torch.rand(1, 3, OFFICIAL_SIZE, OFFICIAL_SIZE) * 2 - 1
    separate, joint = forwards(prior, faces)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # a high-water mark: before any forward
    joint()
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"CPU, batch 1: {extra:.0f} MiB a face at the peak, beside the weights")
    joint_flop = flop(joint)
    for name, value in (
        ("w = 0", flop(lambda: prior(faces, 0.0))),
        ("w = 1", flop(lambda: prior(faces, 1.0))),
        ("joint", joint_flop),
    ):
        print(f"{name}: {value / 1e9:.0f} GFLOP a face (multiply and add counted as two)")
    report("joint forward at 512, CPU", *ratio(separate, joint, runs=CPU_RUNS))
    report("channels last, embedded prior, 16 faces, CPU", *layouts())
    if torch.cuda.is_available():
        on_gpu(prior, joint_flop)


def forwards(prior: CodeFormer, faces: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two separate forwards of ``faces``, and the joint one."""

    @torch.inference_mode()
    def separate() -> None:
        for w in (1.0, 0.0):
            prior(faces, w)

    @torch.inference_mode()
    def joint() -> None:
        prior.restore_pair(faces)

    return separate, joint


def layouts() -> tuple[float, float]:
    """Seconds of the embedded prior's forward in the plain layout and channels last."""
    pictures = np.random.default_rng(0).integers(0, 256, (16, 128, 128, 3), dtype=np.uint8)
    device = torch.device("cpu")
    plain, last = (
        JointForward(load_prior(EMBEDDED), device, channels_last=channels_last)
        for channels_last in (False, True)
    )
    return ratio(lambda: plain(pictures), lambda: last(pictures))


def on_gpu(prior: CodeFormer, joint_flop: float) -> None:
    """Throughput of the synthesize stage's forward against the plain one, its memory, its use of the GPU."""
    pictures = np.random.default_rng(0).integers(
        0, 256, (GPU_BATCH, OFFICIAL_SIZE, OFFICIAL_SIZE, 3), dtype=np.uint8
    )
    fast = JointForward(prior, torch.device("cuda"), precision="bf16", channels_last=True, compiled=True)
    fast(pictures)
    torch.cuda.reset_peak_memory_stats()
    fast(pictures)
    peak = torch.cuda.max_memory_allocated() / 2**20
    print(f"batch {GPU_BATCH}: peak memory {peak:.0f} MiB with the weights, {peak / GPU_BATCH:.0f} a face")

    # As PyTorch comes: convolutions may use TF32, matrix products not.
    plain = CodeFormer(OFFICIAL_NETWORK, OFFICIAL_SIZE).eval().requires_grad_(False).cuda()
    faces = torch.rand(GPU_BATCH, 3, OFFICIAL_SIZE, OFFICIAL_SIZE, device="cuda") * 2 - 1
    separate, _ = forwards(plain, faces)

    def waited() -> None:
        separate()
        torch.cuda.synchronize()

    slow_s, fast_s = ratio(waited, lambda: fast(pictures))
    rate, name = GPU_BATCH / fast_s, torch.cuda.get_device_name()
    print(f"{name}: {rate:.1f} faces/s, {slow_s / fast_s:.1f} times two eager fp32 forwards")
    print(f"{rate * joint_flop / matmul_peak():.0%} of the measured bf16 matmul peak")


def matmul_peak() -> float:
    """Measured bf16 matrix product, FLOP/s."""
    a, b = (torch.randn(MATMUL_SIDE, MATMUL_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        a @ b
        torch.cuda.synchronize()

    seconds, _ = ratio(product, product)
    return 2 * MATMUL_SIDE**3 / seconds


def flop(function: Callable[[], object]) -> float:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        function()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()

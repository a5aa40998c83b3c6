"""The degradation at 512 against the plain recipe, and its batched form on a GPU.

python -m benchmarks.degradation

One core: the same faces and draws, with and without the decoding of the face's PNG.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from benchmarks.timing import ratio, report
from cfpp.config import DegradationRange, load_params
from cfpp.data.degradation import Degradation, apply, draw, gaussian_kernel
from cfpp.data.degradation_batch import apply_batch
from cfpp.data.draws import generator
from cfpp.data.pictures import Picture, decode, encode_png
from cfpp.data.procedural import render

SIDE, DRAWS, RUNS = 512, 40, 5
BATCHES, GPU_RUNS = (64, 256), 7

Degrade = Callable[[Picture, Degradation, np.random.Generator], Picture]


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faces = [render(0, identity, 0, SIDE).picture for identity in range(4)]
    ranges = load_params().degradation
    for name, limits in (("large", ranges.large), ("small", ranges.small)):
        on_one_core(name, limits, faces)
    if torch.cuda.is_available():
        for batch in BATCHES:
            on_gpu(ranges.large, faces, batch)
    else:
        print("no GPU here: the batched degradation was not timed")


def plain(picture: Picture, given: Degradation, rng: np.random.Generator) -> Picture:
    """The recipe step by step: a 41 x 41 filter over the whole face, then the resize."""
    clean = picture.astype(np.float32) / 255.0
    kernel = gaussian_kernel(41, given.sigma_x, given.sigma_y, given.theta).astype(np.float32)
    blurred = cv2.filter2D(clean, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    side = math.floor(SIDE / given.downsample)
    small = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_LINEAR)
    noise = rng.standard_normal(small.shape, dtype=np.float32) * (given.noise / 255.0)
    noisy = np.rint(np.clip(small + noise, 0.0, 1.0) * 255.0).astype(np.uint8)
    bgr = np.ascontiguousarray(noisy[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, given.jpeg])
    squeezed = np.flip(cv2.imdecode(data, cv2.IMREAD_COLOR), axis=2).astype(np.float32)
    back = cv2.resize(squeezed, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(back), 0, 255).astype(np.uint8)


def on_one_core(name: str, limits: DegradationRange, faces: list[Picture]) -> None:
    """Means over the draws of a range; of each draw the medians of interleaved runs."""
    files = [encode_png(face) for face in faces]
    with_decode, without = np.zeros(2), np.zeros(2)
    for index in range(DRAWS):
        item, which = draw(limits, generator(0, "bench", index)), index % len(faces)
        from_file = (partial(decode_and, degrade, files[which], item) for degrade in (plain, apply))
        from_face = (partial(run, degrade, faces[which], item) for degrade in (plain, apply))
        with_decode += ratio(*from_file, runs=RUNS)
        without += ratio(*from_face, runs=RUNS)
    for what, (baseline, candidate) in (
        ("PNG decode and degradation", with_decode / DRAWS),
        ("degradation", without / DRAWS),
    ):
        report(f"{what} at {SIDE}, {name}, a face", baseline, candidate)
        print(f"  {baseline / candidate:.2f} times the faces per second: {1 / candidate:.0f}")


def run(degrade: Degrade, face: Picture, item: Degradation) -> Picture:
    return degrade(face, item, generator(0, "noise"))


def decode_and(degrade: Degrade, file: bytes, item: Degradation) -> Picture:
    return run(degrade, decode(file), item)


def on_gpu(limits: DegradationRange, faces: list[Picture], batch: int) -> None:
    """Faces per second of the batched form, the drawing of noise on the host included."""
    drawn = [draw(limits, generator(0, "bench", index)) for index in range(batch)]
    pictures = torch.from_numpy(np.stack([faces[i % len(faces)] for i in range(batch)]))
    seconds = []
    for _ in range(GPU_RUNS + 1):  # the first warms up
        rngs = [generator(0, "noise", index) for index in range(batch)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        apply_batch(pictures.cuda(), drawn, rngs)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    rate = batch / float(np.median(seconds[1:]))
    print(f"batch of {batch} at {SIDE} on {torch.cuda.get_device_name()}: {rate:.0f} faces per second")


if __name__ == "__main__":
    main()

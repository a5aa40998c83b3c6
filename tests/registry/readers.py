"""Many readers of @champion at once, in this process's threads, until a file says stop.

python -m tests.registry.readers FOLDER THREADS PAUSE

Each opens the champion as `cfpp restore` does, every weight checked, and restores a face; what it got must be
one version as it was registered. Then it rests for PAUSE seconds at most. Writes FOLDER/readers-PID.json:
openings per version, and every fault.
"""

import json
import logging
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cfpp.config import MlflowParams
from cfpp.registry.restorers import open_restorer
from tests.tiny_models import SIZE

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer")
FACE = np.random.default_rng(5).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


def read(
    folder: Path, expected: dict[str, np.ndarray], pause: float, seed: int
) -> tuple[Counter[str], list[str]]:
    """Open and restore until the file `stop` is there."""
    opened, faults, rng = Counter[str](), list[str](), random.Random(seed)
    while not (folder / "stop").exists():
        try:
            champion = open_restorer("models:/restorer@champion", PARAMS, folder, "cpu")
            assert champion.version is not None
            number = champion.version.number
            if not np.array_equal(champion.restorer.restore(FACE), expected[number]):
                faults.append(f"version {number} restores as another")
            opened[number] += 1
        except Exception as error:  # every one is a fault of what is tested
            faults.append(f"{type(error).__name__}: {error}")
        until = time.monotonic() + rng.uniform(0, pause)
        while time.monotonic() < until and not (folder / "stop").exists():
            time.sleep(0.1)
    return opened, faults


def main(folder: Path, threads: int, pause: float) -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with np.load(folder / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}
    open_restorer("models:/restorer@champion", PARAMS, folder, "cpu")  # all that is imported, once
    (folder / f"ready-{os.getpid()}").touch()
    with ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(read, folder, expected, pause, seed) for seed in range(threads)]
        results = [item.result() for item in done]
    report = {
        "opened": sum((opened for opened, _ in results), Counter()),
        "least": min(opened.total() for opened, _ in results),
        "faults": [fault for _, faults in results for fault in faults],
    }
    (folder / f"readers-{os.getpid()}.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

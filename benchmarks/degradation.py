"""The degradation at run.size, against the same recipe at 512 followed by a resize."""

import cv2
import numpy as np

from benchmarks.timing import ratio, report
from cfpp.config import load_params
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.procedural import render


def main() -> None:
    cv2.setNumThreads(1)
    params = load_params()
    size = params.run.size
    small, large = render(0, 1, 0, size).picture, render(0, 1, 0, 512).picture
    drawn = [draw(params.degradation.large, generator(0, "bench", index)) for index in range(20)]

    def at_512() -> list[np.ndarray]:
        degraded = [apply(large, item, generator(0, "noise", i)) for i, item in enumerate(drawn)]
        return [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in degraded]

    def at_size() -> list[np.ndarray]:
        return [apply(small, item, generator(0, "noise", i)) for i, item in enumerate(drawn)]

    report(f"degradation of 20 faces at {size}", *ratio(at_512, at_size))


if __name__ == "__main__":
    main()

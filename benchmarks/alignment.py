"""How far DAM lowers the landmark error of I_G, beside classical optical flow and a warp by the landmarks.

    dvc repro && python -m benchmarks.alignment

The last warps I_G by the very displacements that the landmark detector reports, smoothed over the face. It is
a yardstick and no bound: part of what the detector reports is a difference of appearance, which a smooth warp
leaves and a dense one may remove.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from cfpp.config import load_params
from cfpp.data.pictures import to_pictures, to_tensor
from cfpp.data.samples import SampleStore
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.landmarks import LandmarkDetector, choose_landmarks
from cfpp.evaluation.metrics import landmark_error
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.dam import load_dam, warp_picture
from cfpp.models.probe import load_probe

REACH = 1 / 32  # share of the side over which a landmark's displacement is spread

Aligner = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""I_G and I_F, uint8 [B, S, S, 3], to I_warp."""


def main() -> None:
    params = load_params()
    store = SampleStore(Path.cwd(), "test", ("id", "gp"))
    detector = choose_landmarks(params.data.source, params.weights, load_probe())
    if isinstance(detector, Unavailable):
        raise SystemExit(f"alignment: {detector.reason}")
    items = [store[place] for place in range(len(store))]
    i_f, i_g = (np.stack([item.pictures[name] for item in items]) for name in ("id", "gp"))
    people = [item.identity for item in items]
    target = detector.detect(i_f)
    still = landmark_error(detector.detect(i_g), target)
    bootstrap = Bootstrap(params.evaluate.bootstrap, params.evaluate.confidence, params.run.seed)
    print(
        f"{detector.name}: I_G is {still.mean():.2f} % of the inter-ocular distance off I_F, n = {len(items)}"
    )
    for name, align in aligners(detector).items():
        error = landmark_error(detector.detect(align(i_g, i_f)), target)
        gain = bootstrap.reduction(error, still, people, "alignment")
        interval = "" if gain.low is None or gain.high is None else f" ({gain.low:.1%} to {gain.high:.1%})"
        print(f"{name}: {error.mean():.2f} %, lower by {gain.mean:.1%}{interval}")


def aligners(detector: LandmarkDetector) -> dict[str, Aligner]:
    """What is compared, by name."""
    dam = load_dam("models/dam")
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    @torch.inference_mode()
    def learned(i_g: np.ndarray, i_f: np.ndarray) -> np.ndarray:
        pairs = zip(to_tensor(i_g).split(16), to_tensor(i_f).split(16), strict=True)
        return np.concatenate([to_pictures(warp_picture(g, dam(g, f))) for g, f in pairs])

    def searched(i_g: np.ndarray, i_f: np.ndarray) -> np.ndarray:
        grey = [[cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures] for pictures in (i_f, i_g)]
        return moved(i_g, [dis.calc(f, g, None) for f, g in zip(*grey, strict=True)])

    def told(i_g: np.ndarray, i_f: np.ndarray) -> np.ndarray:
        where = detector.detect(i_f)
        displaced = detector.detect(i_g) - where
        return moved(i_g, [spread(p, d, i_g.shape[1]) for p, d in zip(where, displaced, strict=True)])

    return {"DAM": learned, "DIS optical flow": searched, "warp by the detector's own displacements": told}


def spread(points: np.ndarray, displacements: np.ndarray, side: int) -> np.ndarray:
    """Displacements [N, 2] at points [N, 2] (x, y) as a flow [side, side, 2]: a Gaussian-weighted mean."""
    rows, columns = np.mgrid[0:side, 0:side]
    distance = (columns[..., None] - points[:, 0]) ** 2 + (rows[..., None] - points[:, 1]) ** 2
    weights = np.exp(-distance / (2 * (side * REACH) ** 2))
    flow: np.ndarray = weights @ displacements / (weights.sum(axis=2, keepdims=True) + 1e-3)
    return flow


def moved(pictures: np.ndarray, flows: list[np.ndarray]) -> np.ndarray:
    """Pictures sampled at x + flow(x), flows [S, S, 2] (x, y) in pixels."""
    side = pictures.shape[1]
    rows, columns = np.mgrid[0:side, 0:side]
    return np.stack(
        [
            cv2.remap(
                picture,
                (columns + flow[..., 0]).astype(np.float32),
                (rows + flow[..., 1]).astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for picture, flow in zip(pictures, flows, strict=True)
        ]
    )


if __name__ == "__main__":
    main()

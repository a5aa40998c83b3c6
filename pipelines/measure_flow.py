"""How near DAM's flow comes to the true one: the controlled study's end-point error, in pixels.

    python -m pipelines.measure_flow FLOW_FOLDER

FLOW_FOLDER is the folder flow of a study that `cfpp controlled` wrote, whose pictures data/restored was made
of. Beside DAM: no flow at all, and OpenCV's DIS optical flow on the same pictures. Writes reports/flow.json.
"""

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cfpp.config import Params, load_params
from cfpp.data.components import component_mask
from cfpp.data.pictures import Picture, to_tensor
from cfpp.data.samples import SampleStore
from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.table import plain
from cfpp.files import replacing
from cfpp.models.dam import folded_share, load_dam
from cfpp.models.weights import read_card
from cfpp.progress import progress_bar
from cfpp.storage import place_of
from cfpp.synthesis.controlled import FEATHER, read_flow

log = logging.getLogger(__name__)

BATCH = 16
ELLIPSE = ((296.0, 256.0), (190.0, 150.0))  # the face at 512: centre and half axes, (row, column) pixels
REGIONS = {
    "picture": "every pixel",
    "face": f"an ellipse about ({ELLIPSE[0][0]:.0f}, {ELLIPSE[0][1]:.0f}) with half axes "
    f"{ELLIPSE[1][0]:.0f} and {ELLIPSE[1][1]:.0f}, (row, column) pixels of a 512 face",
    "face_own": "the same without what the donor may have touched: the component boxes and their widest edge",
}
STATISTICS: Mapping[str, Callable[[NDArray[Any]], Any]] = {
    "mean": np.mean,
    "median": np.median,
    "p95": lambda values: np.percentile(values, 95),
}

Flows = NDArray[np.float32]
"""Flows [B, 2, S, S], pixels, (row, column)."""

Aligner = Callable[[Picture, Picture], Flows]
"""I_G and I_F, uint8 [B, S, S, 3], to the flow that lays the first onto the second."""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flows", type=Path, help="folder of the true flows, {key}.{variant}.npz")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--dam", type=Path, default=Path("models/dam"), help="model folder")
    parser.add_argument("--out", type=Path, default=Path("reports/flow.json"), help="file to write")
    options = parser.parse_args()
    try:
        figures = measure_flow(load_params(), options.flows, options.dam, options.split)
    except MendableError as error:
        raise SystemExit(f"measure_flow: {error}") from error
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    log_table(figures)


def measure_flow(params: Params, flows: Path, dam: Path, split: str) -> dict[str, Any]:
    """What reports/flow.json holds.

    A picture's error is the mean, median or 95th percentile of its pixels' errors; figures are means over
    pictures, with intervals over people.

    Returns:
        `error_px`: aligner to region to statistic to {mean, low, high, n, people}; `reduction_by_dam`: the
        share of each other aligner's mean error that DAM takes away, by aligner and region; `folded_share`:
        aligner to the same; and what they were measured on.

    Raises:
        MendableError: pictures or flows are missing or do not belong together, or DAM cannot be loaded.
    """
    store = SampleStore(place_of(params.storage.root), split, ("id", "gp"))
    ways, regions = aligners(dam), regions_of(params.run.size)
    rows: list[dict[str, Any]] = []
    with closing(progress_bar(len(store), "measure flow", "picture")) as bar:
        for start in range(0, len(store), BATCH):
            items = [store[place] for place in range(start, min(start + BATCH, len(store)))]
            i_g, i_f = (np.stack([item.pictures[name] for item in items]) for name in ("gp", "id"))
            truth = np.stack(
                [
                    read_flow(flows / f"{item.key}.{item.variant}.npz", picture)
                    for item, picture in zip(items, i_g, strict=True)
                ]
            )
            for name, align in ways.items():
                found = align(i_g, i_f)
                folded = folded_share(torch.from_numpy(found)).tolist()
                for item, error, share in zip(items, endpoint_error(found, truth), folded, strict=True):
                    own = {"aligner": name, "person": item.identity, "folded": share}
                    rows.append(own | statistics(error, regions))
            bar.update(len(items))
    bootstrap = Bootstrap(params.evaluate.bootstrap, params.evaluate.confidence, params.run.seed)
    return summarise(pd.DataFrame(rows), bootstrap) | {
        "study": "controlled: I_F and I_G made from the clean face, the true flow known",
        "split": split,
        "size": params.run.size,
        "regions": REGIONS,
        "dam_sha256": read_card(dam).sha256,
    }


def summarise(rows: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Any]:
    """The figures of one row per picture and aligner."""
    tables = {str(name): own for name, own in rows.groupby("aligner", sort=False)}
    people = tables["dam"]["person"].tolist()

    def values(name: str, column: str) -> NDArray[np.float64]:
        return tables[name][column].to_numpy(dtype=np.float64)

    def mean(name: str, column: str) -> dict[str, Any]:
        return plain(bootstrap.mean(values(name, column), people, name, column))

    def reduction(name: str, column: str) -> dict[str, Any]:
        return plain(bootstrap.reduction(values("dam", column), values(name, column), people, name, column))

    return {
        "error_px": {
            name: {
                region: {what: mean(name, f"{region} {what}") for what in STATISTICS} for region in REGIONS
            }
            for name in tables
        },
        "reduction_by_dam": {
            name: {region: reduction(name, f"{region} mean") for region in REGIONS}
            for name in tables
            if name != "dam"
        },
        "folded_share": {name: mean(name, "folded") for name in tables},
    }


def aligners(dam: Path) -> dict[str, Aligner]:
    """What is compared, by name.

    Raises:
        WeightsError: DAM cannot be loaded.
    """
    network = load_dam(dam)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    @torch.inference_mode()
    def learned(i_g: Picture, i_f: Picture) -> Flows:
        flows: Flows = network(to_tensor(i_g), to_tensor(i_f)).numpy()
        return flows

    def still(i_g: Picture, i_f: Picture) -> Flows:
        return np.zeros((len(i_g), 2, *i_g.shape[1:3]), np.float32)

    def searched(i_g: Picture, i_f: Picture) -> Flows:
        grey = [[cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures] for pictures in (i_f, i_g)]
        flows = np.stack([dis.calc(f, g, None) for f, g in zip(*grey, strict=True)])
        return np.ascontiguousarray(flows.transpose(0, 3, 1, 2)[:, ::-1])  # OpenCV's order is (column, row)

    return {"dam": learned, "none": still, "dis": searched}


def endpoint_error(found: Flows, truth: Flows) -> NDArray[np.float32]:
    """Distance of the two flows' end points, [B, S, S], pixels."""
    error: NDArray[np.float32] = np.hypot(*(found - truth).swapaxes(0, 1))
    return error


def regions_of(size: int) -> dict[str, NDArray[np.bool_]]:
    """Where errors are counted, [S, S] by name, on the undeformed face: see REGIONS."""
    rows, columns = (np.indices((size, size)) + 0.5) * (512 / size) - 0.5
    (row, column), (height, width) = ELLIPSE
    face = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
    return {
        "picture": np.ones((size, size), bool),
        "face": face,
        "face_own": face & (component_mask(size, FEATHER[1]) == 0),
    }


def statistics(error: NDArray[np.float32], regions: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """ "region statistic" to value, pixels, of one picture's error [S, S]."""
    return {
        f"{region} {what}": float(figure(error[inside]))
        for region, inside in regions.items()
        for what, figure in STATISTICS.items()
    }


def log_table(figures: Mapping[str, Any]) -> None:
    """The means, as text."""
    table = pd.DataFrame(
        {
            name: {
                f"{region}, {what}": found["mean"] for region, by in own.items() for what, found in by.items()
            }
            | {"folded share": figures["folded_share"][name]["mean"]}
            for name, own in figures["error_px"].items()
        }
    )
    log.info(
        "controlled study, %s split, end-point error in pixels at %d\n%s",
        figures["split"],
        figures["size"],
        table.to_string(float_format="%.4f"),
    )


if __name__ == "__main__":
    main()

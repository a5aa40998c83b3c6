"""Measures every picture of the method on people never trained on: metrics.json, plots and the report.

python -m pipelines.evaluate
"""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cfpp.config import Params
from cfpp.data.manifest import Manifest
from cfpp.data.pictures import save
from cfpp.data.samples import SampleStore
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.identity import Domain
from cfpp.evaluation.measure import STORED, Instruments, Restorer, build_instruments
from cfpp.evaluation.panels import Panel, choose_faces, make_panel, sheet
from cfpp.evaluation.plots import curves_figure, landmark_figure, landmark_frame, means_figure, read_curves
from cfpp.evaluation.report import Plots, render_report
from cfpp.evaluation.table import figure_rows, flat, kinds_frame, summarise
from cfpp.lineage import lineage
from cfpp.models.dam import load_dam
from cfpp.models.tgrn import load_tgrn
from cfpp.models.weights import read_card
from cfpp.progress import progress_bar
from cfpp.storage import Place
from pipelines.session import Session, run_stage

log = logging.getLogger("pipelines.evaluate")

REPORTS = Path("reports")
MODELS = Path("models")


def main() -> None:
    run_stage("evaluate", work, ray=False)


def work(session: Session) -> None:
    summary, panels = evaluate(session.params, session.root, session.storage)
    session.log_metrics(flat(summary))
    save(session.root / REPORTS / "faces.jpg", sheet(panels))
    for name in ("metrics.json", "per_image.csv", "report.html", "faces.jpg"):
        session.log_artifact(session.root / REPORTS / name)


def evaluate(params: Params, root: Path, storage: Place) -> tuple[dict[str, Any], list[Panel]]:
    """Measure the test split in the storage by the models of the project in `root`, and write its reports.

    Returns:
        What metrics.json holds, and the faces shown in the report.
    """
    torch.set_num_threads(params.train_tgrn.train.threads)
    store = SampleStore(storage, "test", STORED)
    domain: Domain = "procedural" if "landmarks68" in store[0].meta else "folder"
    instruments = build_instruments(domain, params.weights)
    restorer = load_restorer(root / MODELS, params.train_tgrn.train.use_gpu)
    rows, panels = measure(store, restorer, instruments, params)

    bootstrap = Bootstrap(params.evaluate.bootstrap, params.evaluate.confidence, params.run.seed)
    summary = summarise(rows, bootstrap) | {
        "unavailable": instruments.unavailable(),
        "instruments": instrument_names(instruments, root),
        "about": {
            "split": "test",
            "study": "controlled" if store[0].meta["draw"].get("controlled") else None,
            "samples": len(store),
            "faces": rows["key"].nunique(),
            "identities": rows["person"].nunique(),
            "size": params.run.size,
            "confidence": params.evaluate.confidence,
            "bootstrap": params.evaluate.bootstrap,
            "texture_from": restorer.texture,
            "data_manifest_sha256": Manifest.load(storage / "data" / "pairs").sha256(),
        },
    }
    write_reports(root / REPORTS, summary, rows, panels, lineage(params, root))
    log_table(summary)
    return summary, panels


def instrument_names(instruments: Instruments, root: Path) -> dict[str, str]:
    """Metric to network, with a note where TGRN was trained to please that very network."""
    names = instruments.names()
    config = read_card(root / MODELS / "tgrn").config
    learnt = {config.get("identity_loss"), config.get("training", {}).get("perceptual")}
    note = " (also a loss of TGRN)"
    return {metric: name + note if name in learnt else name for metric, name in names.items()}


def load_restorer(models: Path, use_gpu: bool) -> Restorer:
    """DAM and TGRN as the training stages exported them."""
    device = torch.device("cuda" if use_gpu else "cpu")
    alignment = read_card(models / "tgrn").config["alignment"]
    return Restorer(
        dam=load_dam(models / "dam").to(device),
        tgrn=load_tgrn(models / "tgrn").to(device),
        texture="warp" if alignment == "dam" else "gp",
        device=device,
    )


def measure(
    store: SampleStore, restorer: Restorer, instruments: Instruments, params: Params
) -> tuple[pd.DataFrame, list[Panel]]:
    """One row per picture and kind, and the faces to show."""
    identities = [store[index].identity for index in range(len(store))]
    shown = choose_faces(store.items, identities, params.evaluate.pictures)
    frames, panels = [], []
    size = params.evaluate.batch_size
    starts = range(0, len(store), size)
    with closing(progress_bar(len(starts), "evaluate", "batch")) as bar:
        for start in starts:
            places = range(start, min(start + size, len(store)))
            stored = [store.pictures(place) for place in places]
            pictures, flow = restorer.complete(
                {name: np.stack([item[name] for item in stored]) for name in STORED}
            )
            keys, variants = zip(*(store.items[place] for place in places), strict=True)
            people = identities[places.start : places.stop]
            figures = instruments.measure(pictures, flow=flow)
            frames.append(figure_rows(list(keys), list(variants), people, figures))
            for place in shown:
                if place in places:
                    own = {name: batch[place - start] for name, batch in pictures.items()}
                    panels.append(make_panel(*store.items[place], own, flow[place - start]))
            bar.update(1)
    return pd.concat(frames, ignore_index=True), panels


def write_reports(
    folder: Path, summary: dict[str, Any], rows: pd.DataFrame, panels: list[Panel], origin: dict[str, str]
) -> None:
    """metrics.json, per_image.csv, plots/*.csv and report.html."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    rows.to_csv(folder / "per_image.csv", index=False, float_format="%.6g")
    kinds_frame(summary).to_csv(folder / "plots" / "kinds.csv", index=False)
    if "landmark_id" in rows:
        table = landmark_frame(rows)
        table.to_csv(folder / "plots" / "landmarks.csv", index=False, float_format="%.6g")
    plots = Plots(
        means=means_figure(summary),
        landmarks=landmark_figure(rows),
        curves=curves_figure(read_curves(folder / "curves")),
    )
    origin = origin | {"test data": summary["about"]["data_manifest_sha256"]}
    (folder / "report.html").write_text(render_report(summary, panels, plots, origin), encoding="utf-8")


def log_table(summary: dict[str, Any]) -> None:
    """The means, as text."""
    means = pd.DataFrame(
        {kind: {m: f["mean"] for m, f in figures.items()} for kind, figures in summary["pictures"].items()}
    )
    log.info("means\n%s", means.T.to_string(float_format="%.4f", na_rep=""))
    for name, reason in summary["unavailable"].items():
        log.warning("%s is not computed: %s", name, reason)


if __name__ == "__main__":
    main()

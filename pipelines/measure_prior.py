"""What a trained prior is worth on faces that it has never seen: reconstruction, I_F and I_G against I_HQ.

    python -m pipelines.measure_prior FOLDER --out reports/prior

Writes OUT/figures.json and OUT/faces.jpg. The faces are degraded as params.yaml says (large), each
once, and restored in float32.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cfpp.config import Params, load_params
from cfpp.data.folder import list_faces, load_face
from cfpp.data.pictures import Picture, PictureError, save, to_pictures, to_tensor
from cfpp.data.shards import DataError
from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.measure import Figures, build_instruments
from cfpp.evaluation.metrics import METRICS
from cfpp.evaluation.table import difference, differences, figure_rows, means
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.prior import load_prior, load_stage_one, network_of
from cfpp.models.weights import WeightsError, read_card
from cfpp.objectives.codebook import code_counts, code_statistics
from cfpp.synthesis.degraded import degrader
from cfpp.synthesis.forward import JointForward
from pipelines.evaluate import log_table

KINDS = ("lq", "recon", "id", "gp")
COMPARISONS = (("id", "gp"), ("gp", "lq"), ("id", "lq"))
BATCH = 10


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, help="folder of aligned faces of people who were not trained on")
    parser.add_argument("--prior", type=Path, default=Path("models/prior"), help="model folder")
    parser.add_argument("--codebook", type=Path, help="model folder of its stage 1, for the reconstruction")
    parser.add_argument("--out", type=Path, default=Path("reports/prior"), help="folder to write to")
    parser.add_argument("--shown", type=int, default=8, help="faces on the sheet, 1 or more")
    options = parser.parse_args()
    try:
        summary, sheet = measure(load_params(), options.faces, options.prior, options.codebook, options.shown)
    except MendableError as error:
        raise SystemExit(f"measure_prior: {error}") from error
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    (options.out / "figures.json").write_text(text, encoding="utf-8")
    save(options.out / "faces.jpg", sheet)
    log_table(summary)


def measure(
    params: Params, folder: Path, prior: Path, codebook: Path | None, shown: int
) -> tuple[dict[str, Any], Picture]:
    """Figures with intervals over the faces of ``folder``, and a sheet of the first ``shown`` of them.

    A row of the sheet: I_LQ, reconstruction, I_F, I_G, I_HQ.

    Raises:
        MendableError: no faces, a face that cannot be read, or a prior that cannot be used.
    """
    device, size = torch.device("cuda" if params.synthesize.resources.gpus else "cpu"), params.run.size
    listing, network = list_faces(folder, params.data.identity_pattern).faces, load_prior(prior)
    if network.image_size != size:
        raise WeightsError(f"{prior}: for faces of {network.image_size} pixels, run.size is {size}")
    forward = JointForward(network, device)
    autoencoder = load_codebook(codebook, prior).to(device) if codebook else None
    maker, instruments = degrader(params), build_instruments("folder", params.weights)
    rows, strips = [], []
    counts: torch.Tensor | None = None
    for start in tqdm(range(0, len(listing), BATCH), unit="batch"):
        faces = listing[start : start + BATCH]
        limits = {"min_side": params.data.min_side, "max_pixels": params.data.max_pixels}
        hq = np.stack([_read(folder, face.source, size=size, **limits) for face in faces])
        pictures = {"hq": hq}
        keys, people = [face.key for face in faces], [face.identity for face in faces]
        degraded = [maker.degrade(key, clean, "test")[0] for key, clean in zip(keys, hq, strict=True)]
        pictures["lq"] = np.stack([item.picture for item in degraded])
        restored = forward(pictures["lq"])
        if not restored.finite.all():
            first = keys[int(restored.finite.argmin())]
            raise WeightsError(f"{prior}: gives values that are not finite, first for {first}")
        pictures |= {"id": restored.id, "gp": restored.gp}
        if autoencoder is not None:
            with torch.inference_mode():
                out = autoencoder(to_tensor(hq).to(device))
            pictures["recon"] = to_pictures(out.picture)
            used = code_counts(out.indices.cpu(), autoencoder.quantize.embedding.num_embeddings)
            counts = used if counts is None else counts + used
        kinds = [kind for kind in KINDS if kind in pictures]
        figures: Figures = instruments.measure(pictures, kinds)
        rows.append(figure_rows(keys, [0] * len(faces), people, figures))
        strips += list(np.concatenate([pictures[kind] for kind in (*kinds, "hq")], axis=2))
    table = pd.concat(rows, ignore_index=True)
    bootstrap = Bootstrap(params.evaluate.bootstrap, params.evaluate.confidence, params.run.seed)
    summary = {
        "pictures": means(table, bootstrap, kinds),
        "differences": differences(table, bootstrap, COMPARISONS),
        "texture_gp_minus_id": difference(table, bootstrap, "gp", "id", "texture"),
        "codebook": None if counts is None else code_statistics(counts),
        "instruments": instruments.names(),
        "unavailable": instruments.unavailable(),
        "metrics": {metric.name: metric.meaning for metric in METRICS},
        "faces": len(listing),
        "prior_sha256": read_card(prior).sha256,
    }
    return summary, np.concatenate(strips[: max(1, shown)])


def _read(folder: Path, source: str, **options: int) -> Picture:
    try:
        return load_face(folder, source, **options)
    except (PictureError, OSError) as error:
        raise DataError(f"{folder / source}: {error}") from error


def load_codebook(folder: Path, prior: Path) -> VQAutoEncoder:
    """The stage 1 that ``prior`` was trained from, frozen.

    Raises:
        WeightsError: not usable, or not that prior's.
    """
    card = read_card(folder)
    if read_card(prior).started_from.get("codebook") != card.sha256:
        raise WeightsError(f"{folder}: not the stage 1 that {prior} names as started_from on its card")
    return load_stage_one(folder, *network_of(card.config, folder))


if __name__ == "__main__":
    main()

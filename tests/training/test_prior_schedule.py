"""The prior's three stages through every boundary of their schedules, on two Ray Train workers and on one."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cfpp.config import Params, load_params
from cfpp.data.pictures import encode_png
from cfpp.files import file_digest
from cfpp.models.weights import read_card
from cfpp.training import engine
from cfpp.training.checkpoint import FolderCheckpoints
from cfpp.training.curves import columns_of
from cfpp.training.job import TrainJob, TrainResult
from cfpp.training.sinks import Silent
from pipelines.prior_training import train_prior
from pipelines.training import RUNS
from tests.tiny_shards import Face, write_stage

from .toy import columns

SIZE = 64
STEPS = (5, 4, 9)  # codebook, code prediction, fusion


def schedule(params: Params, **train: Any) -> Params:
    """Few steps, with every boundary among them; ``train`` for all three stages."""

    def short(section: Any, steps: int, **own: Any) -> Any:
        often = {"log_every": 1, "validate_every": 3, "checkpoint_every": 3}
        return replace(section.train, steps=steps, batch_size=4, precision="fp32", **often, **own, **train)

    prior = params.prior
    network = replace(
        prior.network,
        multipliers=(1, 1, 1),
        codebook_size=32,
        transformer_dim=32,
        transformer_layers=1,
        fuse=(32, 64),
    )
    prior = replace(
        prior,
        source="train",
        network=network,
        codebook=replace(prior.codebook, discriminator_start=2, train=short(prior.codebook, STEPS[0])),
        code_prediction=replace(
            prior.code_prediction, train=short(prior.code_prediction, STEPS[1], milestones=(2,))
        ),
        # small w = 1 | discriminator joins | small w = 1.3 | large, w = 0 | mixed: steps 6 and 8 fuse, 7 not
        fusion=replace(
            prior.fusion,
            discriminator_start=1,
            curriculum=(2, 4, 6),
            small_every=2,
            train=short(prior.fusion, STEPS[2]),
        ),
    )
    data = replace(params.data, resources=replace(params.data.resources, max_actors=1))
    return replace(params, run=replace(params.run, size=SIZE), prior=prior, data=data)


def session(root: Path, params: Params) -> Any:
    """What the stage needs of an open one."""
    ignore = {name: lambda *_: None for name in ("log_artifact", "set_tags", "log_params", "log_speed")}
    place = {"root": root, "storage": root, "elsewhere": False, "shared": lambda path: str(root / path)}
    return SimpleNamespace(stage="prior", params=params, sink=Silent(), **place, **ignore)


def fit_here(job: TrainJob, *, name: str, storage: str, sink: object) -> TrainResult:
    """`ray_train.fit` without Ray Train, for one worker."""
    folder = Path(storage, name)
    result = engine.run(job, checkpoints=FolderCheckpoints(folder / "checkpoints", 2), sink=Silent())
    return replace(result, run=name, folder=str(folder))


def make_faces(root: Path) -> None:
    splits: dict[str, list[Face]] = {}
    for split, count in (("train", 8), ("val", 4)):
        splits[split] = []
        for number in range(count):
            rng = np.random.default_rng([number, count])
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            meta = json.dumps({"identity": str(number), "source": "x"}).encode()
            picture = encode_png(np.asarray(cv2.resize(coarse, (SIZE, SIZE)), np.uint8))
            splits[split].append((f"{split}{number}", {"hq.png": picture, "meta.json": meta}))
    write_stage(root / "data" / "shards", splits)


@pytest.mark.slow
@pytest.mark.ray
def test_every_boundary_under_two_workers_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    params = load_params(Path(__file__).parents[2] / "params.yaml")
    rows, cards = {}, {}
    ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING")
    try:
        for name, train in (("two", {"workers": 2}), ("one", {"accumulate": 2})):
            root = tmp_path / name
            make_faces(root)
            if name == "one":
                monkeypatch.setattr("pipelines.training.fit", fit_here)
            _, cards[name], rows[name] = train_prior(session(root, schedule(params, **train)))
            assert [row["step"] for row in rows[name]] == list(range(1, sum(STEPS) + 1))
        # Stage 1 from elsewhere, with one more knob of stage 3: only the stages after it are trained.
        root = tmp_path / "one"
        before = {path.name for path in (root / RUNS).iterdir()}
        [codebook] = (root / RUNS).glob("codebook-*/model")
        again = schedule(params, accumulate=2)
        prior = replace(again.prior, codebook=replace(again.prior.codebook, checkpoint=str(codebook)))
        prior = replace(prior, fusion=replace(prior.fusion, adversarial_weight=0.0))
        _, elsewhere, later = train_prior(session(root, replace(again, prior=prior)))
    finally:
        ray.shutdown()

    for name in ("codebook/loss", "code_prediction/loss", "fusion/loss", "fusion/discriminator"):
        assert columns(rows["two"], name) == pytest.approx(columns(rows["one"], name), rel=1e-3), name
    first = STEPS[0] + STEPS[1]
    fusing = [row["step"] - first - 1 for row in rows["two"] if "fusion/l1" in row]
    judged = [row["step"] - first - 1 for row in rows["two"] if "fusion/discriminator" in row]
    assert (fusing, judged) == ([0, 1, 2, 3, 6, 8], [1, 2, 3, 6, 8])
    rates = columns(rows["two"], "code_prediction/learning_rate")
    assert rates[2] == pytest.approx(rates[1] / 2)
    assert len(columns(rows["two"], "codebook/discriminator")) == STEPS[0] - 2

    # The hand-off is on record, and is that of the files.
    folders = {path.name.split("-")[0]: path / "model" for path in (tmp_path / "two" / RUNS).iterdir()}
    weights = {name: file_digest(path / "model.safetensors") for name, path in folders.items()}
    assert read_card(folders["codebook"]).started_from == {}
    assert read_card(folders["code_prediction"]).started_from == {"codebook": weights["codebook"]}
    assert cards["two"].started_from == {name: weights[name] for name in ("codebook", "code_prediction")}

    # The same codebook gives the same stage 2, which is not trained again.
    assert elsewhere.started_from == cards["one"].started_from
    new = {path.name for path in (root / RUNS).iterdir()} - before
    assert sorted(name.rsplit("-", 1)[0] for name in new) == ["codebook-from", "fusion"]
    assert "codebook/loss" not in columns_of(later)
    assert [row["step"] for row in later] == list(range(1, STEPS[1] + STEPS[2] + 1))
    assert elsewhere.metrics["codebook/psnr"] == cards["one"].metrics["codebook/psnr"]

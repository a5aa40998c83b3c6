"""The loop on Ray Train, with a worker that is killed."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cfpp.training import ray_train
from cfpp.training.job import TrainingError

from .toy import PaintSpec, job, run, same


@dataclass(frozen=True)
class FileSink:
    """A sink spec whose sink writes a line per log."""

    path: str

    def open(self) -> "FileSink":
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        with Path(self.path).open("a") as file:
            file.write(f"{step}\n")

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        assert picture.dtype == np.uint8


def test_storage_must_be_absolute() -> None:
    with pytest.raises(TrainingError, match="absolute"):
        ray_train.fit(job(), name="toy", storage="runs", sink=FileSink("x"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_changes_no_bit_and_a_poisoned_run_is_not_retried(tmp_path: Path) -> None:
    import ray

    # Paths in the spec differ from the undisturbed run's; nothing that is computed does.
    marker = tmp_path / "killed"
    plain = PaintSpec(extra_every=3, noise=0.1, discriminator_start=4)
    undisturbed = run(tmp_path / "pure", job(spec=plain))
    registered = tmp_path / "runs" / "toy" / "checkpoint_manager_snapshot.json"
    spec = replace(plain, kill=(8, str(marker), str(registered)))
    storage, sink = str(tmp_path / "runs"), FileSink(str(tmp_path / "log"))
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}  # where workers find the toys
    ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING", runtime_env=here)
    try:
        result = ray_train.fit(job(spec=spec), name="toy", storage=storage, sink=sink)
        assert marker.exists()
        assert same(result.weights, undisturbed.weights)
        assert result.curves == undisturbed.curves
        assert result.metrics == undisturbed.metrics
        assert Path(result.folder, "curves.csv").read_text() == (tmp_path / "pure" / "curves.csv").read_text()
        steps = [int(line) for line in Path(sink.path).read_text().split()]
        assert steps == [3, 5, 6, 6, 9, 10, 12]  # step 6 was trained twice: it came after the checkpoint at 5
        again = ray_train.fit(job(spec=spec), name="toy", storage=storage, sink=sink)
        assert same(again.weights, undisturbed.weights)
        assert again.images_per_second is None
        with pytest.raises(TrainingError, match="step 7"):
            ray_train.fit(job(spec=PaintSpec(poison_at=7)), name="poisoned", storage=storage, sink=sink)
    finally:
        ray.shutdown()

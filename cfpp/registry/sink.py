"""Metrics and pictures from inside a Ray worker to the stage's MLflow run.

`MlflowSink` is a plain value that travels to the worker; `open()` there gives the sink that the training
engine writes to. Bookkeeping never stops a training run: a store that is locked or away is retried, then
the points are given up with a warning.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0)  # seconds; sqlite itself waits 5 s for a lock in each try


@dataclass(frozen=True)
class MlflowSink:
    """Where to write, picklable: an absolute tracking URI and a run id."""

    tracking_uri: str
    run_id: str

    def open(self) -> "RunSink":
        """For the process that will write; it connects at the first write."""
        return RunSink(self._connect, self.run_id)

    def _connect(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)


@dataclass
class RunSink:
    """Writes to one MLflow run; never raises for a failing store."""

    connect: Callable[[], Any]
    run_id: str
    delays: tuple[float, ...] = RETRY_DELAYS
    lost: int = field(default=0, init=False)
    _client: Any = field(default=None, init=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each named curve."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._write(lambda client: client.log_batch(self.run_id, metrics=points), f"metrics of step {step}")

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Add a picture, uint8 [H, W, 3] RGB, as the frame `step` of the series `name`."""
        self._write(
            lambda client: client.log_image(self.run_id, picture, key=name, step=step),
            f"{name} of step {step}",
        )

    def _write(self, write: Callable[[Any], None], what: str) -> None:
        for delay in (*self.delays, None):
            try:
                self._client = self._client or self.connect()
                write(self._client)
                break
            except Exception as error:
                if delay is None:
                    self.lost += 1
                    logger.warning("MLflow did not take the %s (%d lost so far): %s", what, self.lost, error)
                else:
                    time.sleep(delay)

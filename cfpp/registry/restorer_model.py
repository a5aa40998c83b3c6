"""The restorer as MLflow loads it (models from code): this file is copied into every packaged model.

Input and output are uint8 [B, H, H, 3] RGB; the output has the model's size. Where TGRN was trained on the
pictures of another prior, the input is I_F and I_G, uint8 [B, 2, H, H, 3]. With params.aligned false the
input is photographs, uint8 [B, H, W, 3], and the output has their size.
"""

import gc
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cfpp.errors import MendableError
from cfpp.restoration.request import Intake, RequestError, Settings
from cfpp.restoration.restorer import PARTS, Restorer

_SERVER = "mlflow.pyfunc.scoring_server.app"  # what `mlflow models serve` runs


class RestorerModel(PythonModel):
    """Prior, DAM and TGRN behind MLflow's `predict`; uses a GPU where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the three models, and the face detector where there is one, from the package's artifacts."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        prior, dam, tgrn = (context.artifacts.get(part, "") for part in PARTS)
        self.restorer = Restorer.load_parts(prior, dam, tgrn, device)
        self.detector = _load_detector(context.artifacts.get("detector"), device)
        self.intake = Intake(
            size=self.restorer.size,
            pairs=self.restorer.prior is None,
            photographs=self.detector is not None,
        )
        # one call at a time has the memory, and facexlib's network keeps the picture's size in itself
        self.turn = threading.Lock()
        if _SERVER in sys.modules:
            _answer_requests(self.intake)

    # the package's signature states the types; from hints here MLflow would infer another one
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Restore uint8 [B, H, H, 3] RGB, or pairs [B, 2, H, H, 3], to uint8 [B, S, S, 3].

        Raises:
            MlflowException: BAD_REQUEST, with what was expected.
        """
        pictures = np.asarray(model_input)
        try:
            settings = Settings.of(params)
            self.intake.check(pictures.dtype, pictures.shape, settings)
            with self.turn:
                return self._restore(pictures, settings)
        except MendableError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error

    def _restore(self, pictures: np.ndarray, settings: Settings) -> np.ndarray:
        batch_size, w = settings.batch_size, settings.w
        if not settings.aligned:
            from cfpp.restoration.photographs import restore_photograph

            found = [
                restore_photograph(picture, self.detector, self.restorer, w=w, batch_size=batch_size)
                for picture in pictures
            ]
            return np.stack([one.picture for one in found])
        if self.restorer.prior is None:
            return self.restorer.fuse(pictures[:, 0], pictures[:, 1], batch_size=batch_size, w=w)
        return self.restorer.restore(pictures, batch_size=batch_size, w=w)


def _load_detector(weights: str | None, device: str) -> Any:
    if weights is None:
        return None
    from cfpp.models.face_detector import FaceDetector

    return FaceDetector.load(Path(weights).parent, device=device)


def _answer_requests(intake: Intake) -> None:
    """Let MLflow's server read requests by `intake`, and answer them as it does itself.

    Its own reading casts what it should refuse, fails (500) on nesting or without a Content-Type, and copies
    the nested lists, which takes ten times as long as reading them.
    """
    if not hasattr(scoring_server, "invocations"):
        raise MlflowException("this MLflow's server has no `invocations`; install the package's requirements")
    turn = threading.Lock()  # parsed JSON is large, and two threads would parse no faster than one

    def invocations(data, content_type, model, input_schema):  # type: ignore[no-untyped-def]
        try:
            with turn, _no_collection():
                pictures, params = intake.read(data, content_type)
        except RequestError as error:
            said = json.dumps({"error_code": "BAD_REQUEST", "message": str(error)})
            return scoring_server.InvocationsResponse(said, error.status, "application/json")
        restored = model.predict(pictures, params=params)
        with turn, _no_collection():
            said = json.dumps({"predictions": restored.tolist()})
        return scoring_server.InvocationsResponse(said, 200, "application/json")

    scoring_server.invocations = invocations


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of new lists make Python look for cycles all the time: five times as long as making them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


set_model(RestorerModel())

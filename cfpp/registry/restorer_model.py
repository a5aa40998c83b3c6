"""The restorer as MLflow loads it (models from code): this file is copied into every packaged model.

Input and output are uint8 [B, H, H, 3] RGB; the output has the model's size. Where TGRN was trained on the
pictures of another prior, the input is I_F and I_G, uint8 [B, 2, H, H, 3].
"""

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cfpp.restore import PARTS, Restorer


class RestorerModel(PythonModel):
    """Prior, DAM and TGRN behind MLflow's `predict`; uses a GPU where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the three models from the package's artifacts."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        prior, dam, tgrn = (context.artifacts.get(part, "") for part in PARTS)
        self.restorer = Restorer.load_parts(prior, dam, tgrn, device)

    # the package's signature states the types; from hints here MLflow would infer another one
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Restore uint8 [B, H, H, 3] RGB, or pairs [B, 2, H, H, 3], to uint8 [B, S, S, 3]."""
        pictures = np.asarray(model_input)
        if self.restorer.prior is None:
            return self.restorer.fuse(pictures[:, 0], pictures[:, 1])
        return self.restorer.restore(pictures)


set_model(RestorerModel())

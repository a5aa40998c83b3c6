"""The pictures of the method for a batch of faces, and every figure of each of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cfpp.data.pictures import to_pictures, to_tensor
from cfpp.evaluation.identity import Domain, IdentityEmbedder, choose_identity, similarity
from cfpp.evaluation.landmarks import LandmarkDetector, choose_landmarks
from cfpp.evaluation.metrics import landmark_error, psnr, ssim, texture_ratio
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.dam import DAM, folded_share
from cfpp.models.external import why_missing
from cfpp.models.probe import load_probe
from cfpp.models.tgrn import TGRN
from cfpp.objectives.perceptual import NLPD, SQUEEZE_FILES, Perceptual, find_lpips

# Short name to symbol, in the order of the table. `hq` is the reference and has no row.
KINDS = {
    "lq": "I_LQ",
    "id": "I_F",
    "gp": "I_G",
    "warp": "I_warp",
    "ap": "I_AP",
    "mean": "mean of I_F, I_warp",
    "out": "I_out",
}
STORED = ("hq", "lq", "id", "gp", "warp", "mask", "ap")

Figures = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Restorer:
    """The trained second and third network, on one device.

    Args:
        texture: which picture gives TGRN its texture: warp, or gp (ablation without DAM).
    """

    dam: DAM
    tgrn: TGRN
    texture: str
    device: torch.device

    def complete(self, pictures: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Adds what is not stored, `mean` and `out`, to a batch of uint8 [B, S, S, 3]; and gives phi.

        Returns:
            The pictures, and the flow float32 [B, 2, S, S], pixels, (row, column).
        """
        with torch.inference_mode():
            i_f, i_g, texture = (
                to_tensor(pictures[name]).to(self.device) for name in ("id", "gp", self.texture)
            )
            flow = self.dam(i_g, i_f)
            out = self.tgrn(i_f, texture)
        mean = (pictures["id"].astype(np.uint16) + pictures["warp"] + 1) // 2
        made = {"mean": mean.astype(np.uint8), "out": to_pictures(out.float().clamp(-1, 1).cpu())}
        return pictures | made, flow.float().cpu().numpy()


@dataclass(frozen=True)
class Instruments:
    """What measures; an instrument that is not there says why."""

    nlpd: Perceptual
    lpips: Perceptual | Unavailable
    identity: IdentityEmbedder | Unavailable
    landmarks: LandmarkDetector | Unavailable

    def by_metric(self) -> dict[str, Perceptual | IdentityEmbedder | LandmarkDetector | Unavailable]:
        """The instrument of each metric that needs a network."""
        return {
            "lpips": self.lpips,
            "identity": self.identity,
            "landmark_hq": self.landmarks,
            "landmark_id": self.landmarks,
        }

    def names(self) -> dict[str, str]:
        """Metric name to the network that computes it."""
        tools = self.by_metric().items()
        return {metric: tool.name for metric, tool in tools if not isinstance(tool, Unavailable)}

    def unavailable(self) -> dict[str, str]:
        """Metric name to the reason why it is not computed."""
        tools = self.by_metric().items()
        return {metric: tool.reason for metric, tool in tools if isinstance(tool, Unavailable)}

    def measure(
        self, pictures: dict[str, np.ndarray], kinds: Iterable[str] = KINDS, flow: np.ndarray | None = None
    ) -> Figures:
        """Every figure of a batch.

        Args:
            pictures: `hq`, `id` and the kinds, uint8 [B, S, S, 3].
            kinds: what to measure.
            flow: of `warp`, [B, 2, S, S], pixels.

        Returns:
            Kind to metric to [B]. A metric that makes no sense for a kind is absent there, as are those
            whose instrument is unavailable.
        """
        figures: Figures = {kind: self._against_hq(pictures[kind], pictures["hq"]) for kind in kinds}
        if not isinstance(self.identity, Unavailable):
            truth = self.identity.embed(pictures["hq"])
            for kind, own in figures.items():
                own["identity"] = similarity(self.identity.embed(pictures[kind]), truth)
        if not isinstance(self.landmarks, Unavailable):
            points = {kind: self.landmarks.detect(pictures[kind]) for kind in ("hq", "id", *figures)}
            for kind, own in figures.items():
                own["landmark_hq"] = landmark_error(points[kind], points["hq"])
                if kind != "id":
                    own["landmark_id"] = landmark_error(points[kind], points["id"])
        if flow is not None:
            figures["warp"]["folded"] = 100 * folded_share(torch.from_numpy(flow)).double().numpy()
        return figures

    def _against_hq(self, pictures: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        figures = {
            "psnr": psnr(pictures, truth),
            "ssim": ssim(pictures, truth),
            "texture": texture_ratio(pictures, truth),
        }
        for name, distance in (("nlpd", self.nlpd), ("lpips", self.lpips)):
            if not isinstance(distance, Unavailable):
                with torch.inference_mode():
                    values = distance(to_tensor(pictures), to_tensor(truth))
                figures[name] = values.double().numpy()
        return figures


def build_instruments(domain: Domain, weights_root: str) -> Instruments:
    """The instruments for faces of `domain`, from the package and from `weights_root`."""
    probe = load_probe()
    lpips = find_lpips(weights_root)
    return Instruments(
        nlpd=NLPD(),
        lpips=lpips if lpips is not None else Unavailable(why_missing(weights_root, SQUEEZE_FILES)),
        identity=choose_identity(domain, weights_root, probe),
        landmarks=choose_landmarks(domain, weights_root, probe),
    )

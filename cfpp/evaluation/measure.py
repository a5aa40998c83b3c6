"""The pictures of the method for a batch of faces, and every figure of each of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cfpp.config import WeightsParams
from cfpp.data.pictures import to_pictures, to_tensor
from cfpp.evaluation.identity import Domain, IdentityEmbedder, angle, choose_identity, similarity
from cfpp.evaluation.landmarks import LandmarkDetector, choose_landmarks
from cfpp.evaluation.metrics import landmark_error, psnr, ssim, texture_ratio
from cfpp.evaluation.niqe import Niqe
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.catalogue import NIQE
from cfpp.models.dam import DAM, folded_share
from cfpp.models.external import find_external, why_missing
from cfpp.models.probe import load_probe
from cfpp.models.tgrn import TGRN
from cfpp.objectives.perceptual import LPIPS_FILES, NLPD, Backbone, Perceptual, find_lpips

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
class Seen:
    """Pictures, and what the networks see in them, so that each picture is looked at once.

    Attributes:
        pictures: uint8 [B, S, S, 3].
        embeddings: [B, D] of length 1; None without an embedder.
        points: [B, 68, 2]; None without a detector.
    """

    pictures: np.ndarray
    embeddings: np.ndarray | None
    points: np.ndarray | None


@dataclass(frozen=True)
class Instruments:
    """What measures; an instrument that is not there says why."""

    nlpd: Perceptual
    lpips: Perceptual | Unavailable
    lpips_alex: Perceptual | Unavailable
    lpips_vgg: Perceptual | Unavailable
    identity: IdentityEmbedder | Unavailable
    landmarks: LandmarkDetector | Unavailable
    niqe: Niqe | Unavailable

    def names(self) -> dict[str, str]:
        """Metric name to the network or the parameters that compute it."""
        tools = self._by_metric().items()
        return {metric: tool for metric, tool in tools if not isinstance(tool, Unavailable)}

    def unavailable(self) -> dict[str, str]:
        """Metric name to the reason why it is not computed."""
        tools = self._by_metric().items()
        return {metric: tool.reason for metric, tool in tools if isinstance(tool, Unavailable)}

    def _by_metric(self) -> dict[str, str | Unavailable]:
        """Each metric that needs files, and what its instrument is called."""
        tools = {
            "lpips": self.lpips,
            "lpips_alex": self.lpips_alex,
            "lpips_vgg": self.lpips_vgg,
            "identity": self.identity,
            "angle": self.identity,
            "landmark_hq": self.landmarks,
            "landmark_id": self.landmarks,
        }
        named = {m: tool if isinstance(tool, Unavailable) else tool.name for m, tool in tools.items()}
        return named | {"niqe": self.niqe if isinstance(self.niqe, Unavailable) else NIQE[0].label}

    def against(self, pictures: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """Every full-reference metric that is available.

        Args:
            pictures: uint8 [B, S, S, 3], RGB, aligned faces.
            truth: the same shape, the same faces.

        Returns:
            Metric name to float64 [B].

        Raises:
            MetricError, PerceptualError: a metric is not defined on one of them.
        """
        return self._against(self._see(pictures), self._see(truth))

    def alone(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Every no-reference metric that is available: name to float64 [B], of uint8 [B, S, S, 3].

        Raises:
            NiqeError: too little texture to judge.
        """
        return {} if isinstance(self.niqe, Unavailable) else {"niqe": self.niqe.measure(pictures)}

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
        seen = {kind: self._see(pictures[kind]) for kind in dict.fromkeys(("hq", "id", *kinds))}
        figures: Figures = {
            kind: self._against(seen[kind], seen["hq"]) | self.alone(pictures[kind]) for kind in kinds
        }
        for kind, own in figures.items():
            points, anchor = seen[kind].points, seen["id"].points
            if kind != "id" and points is not None and anchor is not None:
                own["landmark_id"] = landmark_error(points, anchor).astype(np.float64)
        if flow is not None:
            figures["warp"]["folded"] = 100 * folded_share(torch.from_numpy(flow)).double().numpy()
        return figures

    def _see(self, pictures: np.ndarray) -> Seen:
        return Seen(
            pictures,
            None if isinstance(self.identity, Unavailable) else self.identity.embed(pictures),
            None if isinstance(self.landmarks, Unavailable) else self.landmarks.detect(pictures),
        )

    def _against(self, seen: Seen, truth: Seen) -> dict[str, np.ndarray]:
        figures = {
            "psnr": psnr(seen.pictures, truth.pictures),
            "ssim": ssim(seen.pictures, truth.pictures),
            "texture": texture_ratio(seen.pictures, truth.pictures),
        }
        distances = {
            "nlpd": self.nlpd,
            "lpips": self.lpips,
            "lpips_alex": self.lpips_alex,
            "lpips_vgg": self.lpips_vgg,
        }
        first, second = to_tensor(seen.pictures), to_tensor(truth.pictures)
        for name, distance in distances.items():
            if not isinstance(distance, Unavailable):
                with torch.inference_mode():
                    figures[name] = distance(first, second).double().numpy()
        if seen.embeddings is not None and truth.embeddings is not None:
            figures["identity"] = similarity(seen.embeddings, truth.embeddings)
            figures["angle"] = angle(seen.embeddings, truth.embeddings)
        if seen.points is not None and truth.points is not None:
            figures["landmark_hq"] = landmark_error(seen.points, truth.points)
        return {name: values.astype(np.float64) for name, values in figures.items()}


def build_instruments(domain: Domain, weights: WeightsParams) -> Instruments:
    """The instruments for faces of `domain`, from the package and from what section weights names.

    Raises:
        ParamsError, ExternalFileError, NiqeError: a file or folder of the section is not what it should be.
    """
    probe = load_probe()
    return Instruments(
        nlpd=NLPD(),
        lpips=_lpips(weights, "squeeze"),
        lpips_alex=_lpips(weights, "alex"),
        lpips_vgg=_lpips(weights, "vgg"),
        identity=choose_identity(domain, weights, probe),
        landmarks=choose_landmarks(domain, weights, probe),
        niqe=_niqe(weights),
    )


def _lpips(weights: WeightsParams, backbone: Backbone) -> Perceptual | Unavailable:
    found = find_lpips(weights.root, backbone)
    return found if found is not None else Unavailable(why_missing(weights.root, LPIPS_FILES[backbone]))


def _niqe(weights: WeightsParams) -> Niqe | Unavailable:
    found = find_external(weights.root, NIQE)
    return Niqe.load(found[0]) if found is not None else Unavailable(why_missing(weights.root, NIQE))

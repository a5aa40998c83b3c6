"""What the face probe is trained for: landmarks and a margin between people."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.models.probe import EMBEDDING

NOBODY = -100  # the person of a picture that the identity loss leaves out


class ProbeObjective(nn.Module):
    """Mean landmark distance in pixels, plus the additive-margin softmax over the training identities.

    Args:
        identities: number of people in the training set.
        margin: cosine margin of the right class (Wang et al. 2018, "Additive margin softmax").
        scale: factor on the cosines before the softmax.
        landmark_weight: weight of the landmark distance, per pixel of 128.
    """

    def __init__(
        self, identities: int, *, margin: float = 0.25, scale: float = 20.0, landmark_weight: float = 2.0
    ) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(identities, EMBEDDING) * 0.1)
        self.margin, self.scale, self.landmark_weight = margin, scale, landmark_weight

    def forward(
        self, outputs: tuple[Tensor, Tensor], landmarks: Tensor, people: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts.

        Args:
            outputs: the probe's landmarks [B, 68, 2] and embeddings [B, 64].
            landmarks: [B, 68, 2], (x, y) pixels, in the frame of the picture that the probe saw.
            people: [B] int64, 0 to identities - 1, or `NOBODY`.
        """
        points, embeddings = outputs
        distance = (points - landmarks).square().sum(dim=2).add(1e-6).sqrt().mean()
        cosines = embeddings @ F.normalize(self.centres, dim=1).T
        margins = F.one_hot(people.clamp(min=0), len(self.centres)) * self.margin
        identity = F.cross_entropy(self.scale * (cosines - margins), people, ignore_index=NOBODY)
        loss = self.landmark_weight * distance + identity
        return loss, {"landmark_pixels": distance.detach(), "identity": identity.detach()}

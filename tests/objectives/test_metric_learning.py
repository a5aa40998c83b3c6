"""The cosine triplet against a plain loop, the embedding against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpp.models.codeformer.autoencoder import Encoder
from cfpp.objectives.metric_learning import TextureEmbedding, cosine_triplet
from cfpp.objectives.perceptual import LPIPS
from cfpp.training_params import NetworkParams

NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1, 2),
    res_blocks=1,
    codebook_size=8,
    embed_dim=16,
    transformer_dim=16,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)


def cosine(a: list[float], b: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def slow_triplet(
    anchor: Tensor, positive: Tensor, negatives: list[Tensor], margin: float
) -> tuple[float, float]:
    losses = []
    for i in range(len(anchor)):
        near = cosine(anchor[i].tolist(), positive[i].tolist())
        for negative in negatives:
            far = cosine(anchor[i].tolist(), negative[i].tolist())
            apart = 1 - cosine(positive[i].tolist(), negative[i].tolist())
            losses.append(max(0.0, (far - near) / apart + margin))
    violated = [value for value in losses if value > 0]
    return (sum(violated) / len(violated) if violated else 0.0), len(violated) / len(losses)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("count", [1, 2])
def test_triplet_equals_a_plain_loop(margin: float, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    anchor, positive, *negatives = torch.randn(2 + count, 7, 5, generator=generator).double().unbind()
    loss, active = cosine_triplet(anchor, positive, negatives, margin)
    expected, share = slow_triplet(anchor, positive, negatives, margin)
    assert 0 < share < 1
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert active.item() == pytest.approx(share)


def test_no_violated_triplet_gives_zero_and_a_zero_gradient() -> None:
    anchor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss, active = cosine_triplet(anchor, torch.tensor([[2.0, 0.0]]), [torch.tensor([[-1.0, 0.0]])], 0.05)
    loss.backward()
    assert loss.item() == 0
    assert active.item() == 0
    assert anchor.grad is not None
    assert not anchor.grad.any()


def test_a_step_downhill_moves_towards_the_positive() -> None:
    torch.manual_seed(0)
    anchor = torch.randn(4, 6, requires_grad=True)
    positive, negative = torch.randn(4, 6), torch.randn(4, 6)
    loss, _ = cosine_triplet(anchor, positive, [negative], 2.0)
    loss.backward()
    assert anchor.grad is not None
    moved = anchor.detach() - 0.1 * anchor.grad
    gap = F.cosine_similarity(anchor, positive) - F.cosine_similarity(anchor, negative)
    assert (F.cosine_similarity(moved, positive) - F.cosine_similarity(moved, negative) > gap).all()


def test_a_triplet_without_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train_tgrn\.negatives"):
        cosine_triplet(torch.ones(1, 2), torch.ones(1, 2), [], 0.05)


def test_textures_that_are_almost_alike_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = 1000 * torch.randn(4, 6, generator=generator, dtype=torch.double)
    negative = F.normalize(shared + torch.randn(4, 6, generator=generator, dtype=torch.double), dim=1)
    positive = F.normalize(shared + torch.randn(4, 6, generator=generator, dtype=torch.double), dim=1)
    assert (F.cosine_similarity(positive, negative) > 0.99999).all()

    def triplet(share: float, margin: float, dtype: torch.dtype = torch.double) -> float:
        """Of an anchor that lies at this share of the way from the negative to the positive."""
        anchor = torch.lerp(negative, positive, share)
        return cosine_triplet(anchor.to(dtype), positive.to(dtype), [negative.to(dtype)], margin)[0].item()

    for share, expected in ((0.0, 2.0), (0.25, 1.5), (0.5, 1.0), (1.0, 0.0)):
        assert triplet(share, 1.0) == pytest.approx(expected, abs=1e-4)
        assert triplet(share, 1.0, torch.float) == pytest.approx(expected, abs=0.02)
    assert triplet(0.6, 0.05) == 0


def test_an_anchor_at_the_negative_is_pulled_away() -> None:
    torch.manual_seed(0)
    negative, positive = torch.randn(2, 3, 6).unbind()
    anchor = negative.clone().requires_grad_(True)
    cosine_triplet(anchor, positive, [negative], 0.5)[0].backward()
    assert anchor.grad is not None
    moved = anchor.detach() - 0.1 * anchor.grad
    assert (F.cosine_similarity(moved, positive) > F.cosine_similarity(negative, positive) + 1e-3).all()


def test_a_positive_that_is_the_negative_gives_no_infinity() -> None:
    anchor = torch.randn(2, 6, requires_grad=True)
    same = torch.randn(2, 6)
    loss, _ = cosine_triplet(anchor, same, [same.clone()], 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert anchor.grad is not None
    assert not anchor.grad.any()


def embedding(levels: int = 2) -> tuple[Encoder, TextureEmbedding]:
    torch.manual_seed(0)
    encoder = Encoder(NETWORK, 64)
    return encoder, TextureEmbedding.of_encoder(encoder, levels)


def test_embedding_is_the_pooled_statistics_of_the_encoders_levels() -> None:
    encoder, embed = embedding()
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    _, features = encoder.encode(pictures, (64, 32))
    for row, found in enumerate(embed(pictures)):
        parts = []
        for side in (64, 32):
            channels = features[side][row].detach().double().flatten(1)
            means = [c.mean().item() for c in channels]
            deviations = [math.sqrt(((c - c.mean()) ** 2).mean().item()) for c in channels]
            part = torch.tensor(means + deviations)
            parts.append(part / part.norm())
        torch.testing.assert_close(found.detach(), torch.cat(parts) / math.sqrt(2), atol=1e-4, rtol=1e-3)


def test_embedding_by_lpips_is_the_pooled_statistics_of_its_backbone() -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(1)
    backbone = squeezenet1_1(weights=None).eval()
    embed = TextureEmbedding.of_lpips(LPIPS("squeeze", backbone.state_dict(), "random"), levels=2)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = ((pictures + 1) / 2 - mean) / deviation  # as torchvision's networks take them
    parts = []
    for ends in (backbone.features[:2], backbone.features[2:5]):
        features = ends(features).detach()
        flat = features.flatten(2)
        part = torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)
        parts.append(part / part.norm(dim=1, keepdim=True))
    expected = torch.cat(parts, 1) / math.sqrt(2)
    torch.testing.assert_close(embed(pictures), expected, atol=1e-4, rtol=2e-3)


def test_embedding_is_frozen_apart_from_the_encoder_and_lets_gradients_through() -> None:
    encoder, embed = embedding()
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    before = embed(picture)
    embed.train()
    assert not any(module.training for module in embed.modules())
    assert not any(p.requires_grad for p in embed.parameters())
    assert all(p.requires_grad for p in encoder.parameters())
    with torch.no_grad():
        for p in encoder.parameters():
            p.zero_()
    torch.testing.assert_close(embed(picture), before)
    embed(picture)[:, 0].sum().backward()
    assert picture.grad is not None
    assert picture.grad.any()


def test_embedding_sees_texture_and_not_where_it_is() -> None:
    _, embed = embedding()
    generator = torch.Generator().manual_seed(4)
    flat = torch.zeros(1, 3, 64, 64)
    texture = 0.5 * torch.randn(1, 3, 64, 64, generator=generator)
    moved = texture.roll((13, 22), (2, 3))
    plain, textured, shifted = (embed(x) for x in (flat, texture, moved))
    assert F.cosine_similarity(textured, shifted) > 0.999
    assert F.cosine_similarity(textured, plain) < F.cosine_similarity(textured, shifted) - 0.01

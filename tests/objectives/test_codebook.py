"""Stage 1 of the prior: what it trains, how its codes stay in use, what its loss is made of."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cfpp.models.codeformer.quantizer import VectorQuantizer
from cfpp.objectives.codebook import CodebookSpec, code_counts, code_statistics, psnr
from tests.objectives.tiny_stages import CODEBOOK, NETWORK, SIZE, reached, train

pytestmark = pytest.mark.usefixtures("seeded")


def test_psnr_by_hand() -> None:
    black, grey = torch.full((2, 3, 4, 4), -1.0), torch.full((2, 3, 4, 4), 0.0)
    assert psnr(black, grey).item() == pytest.approx(20 * torch.tensor(2.0).log10().item(), abs=1e-4)
    assert psnr(black * 3, black).item() == pytest.approx(10 * torch.tensor(4e10).log10().item(), rel=1e-4)


def test_code_statistics_by_hand() -> None:
    figures = code_statistics(code_counts(torch.tensor([[0, 1], [0, 1]]), 8))
    assert figures == {"code_usage": 0.25, "dead_codes": 6, "code_perplexity": pytest.approx(2.0)}


def test_codes_are_counted_over_the_split_and_not_by_batch(batch: dict[str, Tensor]) -> None:
    objective = CodebookSpec(CODEBOOK, NETWORK, SIZE, "").build()
    batches = [
        {"psnr": torch.tensor(value), "codes": code_counts(torch.tensor([code]), 4)}
        for value, code in ((20.0, 0), (22.0, 3))
    ]
    figures = objective.summarise(batches)
    assert figures == {
        "psnr": 21.0,
        "code_usage": 0.5,
        "dead_codes": 2,
        "code_perplexity": pytest.approx(2.0),
    }


def test_revived_codes_lie_on_the_latent() -> None:
    quantize = VectorQuantizer(8, 4)
    with torch.no_grad():
        quantize.embedding.weight[1:] = 1e3
    latent = torch.randn(1, 4, 5, 5)
    before = quantize(latent)
    kept = quantize.embedding.weight[0].clone()
    unused = quantize.unused(latent)
    assert unused.tolist() == [False] + [True] * 7
    quantize.revive(latent, torch.zeros(8, dtype=torch.bool))
    assert quantize(latent).indices.equal(before.indices)
    quantize.revive(latent, unused)
    rows = latent.permute(0, 2, 3, 1).reshape(-1, 4)
    codes = quantize.embedding.weight
    assert codes[0].equal(kept)
    assert all((rows == code).all(1).any() for code in codes[1:])
    assert quantize(latent).perplexity > before.perplexity + 3


def test_revives_no_code_that_is_in_use() -> None:
    quantize = VectorQuantizer(3, 2)
    with torch.no_grad():
        quantize.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]))
    latent = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2]]).view(1, 2, 1, 3)
    quantize.revive(latent, quantize.unused(latent))
    assert quantize.embedding.weight[:2].equal(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert quantize.embedding.weight[2, 0] < 1


@pytest.mark.parametrize(("share", "moves"), [(0.0, False), (0.01, True)])
def test_the_first_step_places_the_codes_unless_that_is_off(
    batch: dict[str, Tensor], share: float, moves: bool
) -> None:
    network = dataclasses.replace(NETWORK, codebook_size=600)  # more codes than two faces have positions
    objective = CodebookSpec(dataclasses.replace(CODEBOOK, revived_share=share), network, SIZE, "").build()
    before = objective.model.quantize.embedding.weight.detach().clone()
    objective.step(batch, 0)
    assert objective.model.quantize.embedding.weight.equal(before) is not moves


def test_codebook_stage_trains_everything(batch: dict[str, Tensor]) -> None:
    objective = CodebookSpec(CODEBOOK, NETWORK, SIZE, "").build()
    for step in (1, 7):
        assert reached(objective, batch, step) == {"encoder", "quantize", "generator"}


def test_codebook_stage_learns_and_uses_its_codes(batch: dict[str, Tensor]) -> None:
    params = dataclasses.replace(CODEBOOK, discriminator_start=100)
    objective = CodebookSpec(params, NETWORK, SIZE, "").build()
    before = objective.validate(objective.model, batch)
    train(objective, batch, range(12))
    after = objective.validate(objective.model, batch)
    assert after["psnr"] > before["psnr"] + 3
    assert after["perceptual"] < before["perceptual"] / 2
    assert objective.summarise([after])["code_usage"] >= 0.75


def test_discriminator_joins_at_its_step(batch: dict[str, Tensor]) -> None:
    objective = CodebookSpec(CODEBOOK, NETWORK, SIZE, "").build()
    early, late = objective.step(batch, 4), objective.step(batch, 5)
    assert "adversarial" not in early.logs
    assert "adversarial" in late.logs
    assert 0 <= late.logs["adaptive_weight"] <= 1
    assert late.fake is not None
    assert late.fake.shape == batch["hq"].shape
    assert all(not value.requires_grad for value in late.logs.values())


def test_unused_codes_move_until_the_discriminator_starts(batch: dict[str, Tensor]) -> None:
    network = dataclasses.replace(NETWORK, codebook_size=600)  # more codes than two faces have positions
    objective = CodebookSpec(dataclasses.replace(CODEBOOK, revived_share=1.0), network, SIZE, "").build()
    codes = objective.model.quantize.embedding.weight
    for step, moves in ((4, True), (5, False)):
        before = codes.detach().clone()
        objective.step(batch, step)
        assert codes.equal(before) is not moves, step


def test_a_code_that_another_worker_uses_stays(
    batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = dataclasses.replace(NETWORK, codebook_size=600)
    objective = CodebookSpec(dataclasses.replace(CODEBOOK, revived_share=1.0), network, SIZE, "").build()
    codes = objective.model.quantize.embedding.weight
    before = codes.detach().clone()

    def all_reduce(unused: Tensor, op: object) -> None:
        assert op == dist.ReduceOp.MIN
        unused[:300] = 0  # the other worker's faces use these

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    sent: list[tuple[Tensor, int]] = []
    monkeypatch.setattr(dist, "broadcast", lambda weight, src: sent.append((weight.clone(), src)))
    objective.step(batch, 1)
    [(weight, source)] = sent
    assert source == 0
    assert weight.equal(codes)
    assert codes[:300].equal(before[:300])
    assert not codes[300:].equal(before[300:])


def test_what_is_not_finite_is_left_to_the_engine_to_report(batch: dict[str, Tensor]) -> None:
    objective = CodebookSpec(CODEBOOK, NETWORK, SIZE, "").build()
    broken = objective.step({**batch, "hq": torch.full_like(batch["hq"], float("nan"))}, 0)
    assert not broken.loss.isfinite()


def test_the_loss_of_stage_one_is_its_terms_by_their_weights(batch: dict[str, Tensor]) -> None:
    params = dataclasses.replace(CODEBOOK, perceptual_weight=0.3, late_perceptual_weight=0.9)
    params = dataclasses.replace(params, adversarial_weight=0.7, revived_share=0.0)
    objective = CodebookSpec(params, NETWORK, SIZE, "").build()
    for step in (4, 5):
        result = objective.step(batch, step)
        logs = {name: value.item() for name, value in result.logs.items()}
        assert result.fake is not None
        assert logs["l1"] == pytest.approx((result.fake - batch["hq"]).abs().mean().item(), rel=1e-5)
        expected = logs["l1"] + (0.3 if step == 4 else 0.9) * logs["perceptual"] + logs["codebook"]
        if step == 5:
            expected += 0.7 * logs["adaptive_weight"] * logs["adversarial"]
            assert logs["adaptive_weight"] * logs["adversarial"] != 0
        assert result.loss.item() == pytest.approx(expected, rel=1e-5)

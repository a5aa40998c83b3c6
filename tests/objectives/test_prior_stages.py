"""The three training stages of the prior: what each trains, leaves alone and hands on."""

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.codeformer.quantizer import VectorQuantizer
from cfpp.models.discriminator import PatchDiscriminator
from cfpp.models.prior import load_prior, load_stage_one
from cfpp.models.weights import Card, WeightsError, load_weights, save_model
from cfpp.objectives.adversarial import (
    adaptive_weight,
    balanced_adversarial_loss,
    generator_loss,
    hinge_discriminator_loss,
)
from cfpp.objectives.base import Objective, ObjectiveSpec
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec, code_counts, code_statistics, psnr
from cfpp.objectives.fusion import FusionSpec
from cfpp.training_params import (
    CodebookParams,
    CodePredictionParams,
    FusionParams,
    NetworkParams,
    TrainParams,
)

SIZE = 32
NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1),
    res_blocks=1,
    codebook_size=16,
    embed_dim=16,
    transformer_dim=16,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)
TRAIN = TrainParams(
    steps=10,
    batch_size=2,
    accumulate=1,
    learning_rate=1e-3,
    final_learning_rate=1e-3,
    milestones=(),
    betas=(0.9, 0.99),
    ema_decay=0.9,
    precision="fp32",
    channels_last=False,
    workers=1,
    use_gpu=False,
    threads=1,
    loader_workers=0,
    log_every=1,
    validate_every=1,
    checkpoint_every=1,
    keep=1,
    max_failures=0,
)
CODEBOOK = CodebookParams(
    checkpoint="",
    perceptual_weight=1.0,
    revived_share=0.01,
    adversarial_weight=0.8,
    discriminator_start=5,
    discriminator_width=8,
    discriminator_layers=2,
    train=TRAIN,
)
PREDICTION = CodePredictionParams(feature_weight=1.0, cross_entropy_weight=0.5, train=TRAIN)
FUSION = FusionParams(
    perceptual_weight=1.0,
    adversarial_weight=0.1,
    discriminator_start=2,
    discriminator_width=8,
    discriminator_layers=2,
    curriculum=(3, 6, 9),
    small_every=5,
    train=TRAIN,
)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def save(folder: Path, spec: CodebookSpec | CodePredictionSpec, model: nn.Module, steps: int = 1) -> str:
    save_model(folder, model, Card(kind=spec.kind, config=spec.config, steps=steps))
    return str(folder)


@pytest.fixture
def stage_one(tmp_path: Path) -> str:
    spec = CodebookSpec(CODEBOOK, NETWORK, SIZE, "")
    return save(tmp_path / "codebook", spec, spec.build().model)


@pytest.fixture
def batch(stage_one: str) -> dict[str, Tensor]:
    hq = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, SIZE, mode="bilinear")
    teacher = load_stage_one(stage_one, NETWORK, SIZE)
    codes = teacher.quantize.encode(teacher.encoder(hq))
    return {"hq": hq, "lq": (hq + 0.2 * torch.randn_like(hq)).clamp(-1, 1), "codes": codes}


@pytest.fixture
def prediction(stage_one: str) -> CodePredictionSpec:
    return CodePredictionSpec(PREDICTION, NETWORK, SIZE, "", stage_one)


@pytest.fixture
def fusion(tmp_path: Path, prediction: CodePredictionSpec) -> FusionSpec:
    second = save(tmp_path / "code_prediction", prediction, prediction.build().model)
    return FusionSpec(FUSION, PREDICTION, NETWORK, SIZE, "", prediction.codebook, second)


def reached(objective: Objective, batch: dict[str, Tensor], step: int) -> set[str]:
    """Children of the model into which one step sends gradients that are not zero."""
    objective.zero_grad(set_to_none=True)
    objective.step(batch, step).loss.backward()
    moved = {name for name, p in objective.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not [p for p in objective.parameters() if p.grad is not None and not p.requires_grad]
    return {name.partition(".")[0] for name in moved}


def train(objective: Objective, batch: dict[str, Tensor], steps: range, rate: float = 1e-3) -> None:
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, rate)
    for step in steps:
        result = objective.step(batch, step)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 1.0))
    assert generator_loss(fake).item() == pytest.approx(1.0)


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    small, large = (0.3 * weight).sum(), (3.0 * weight).sum()
    assert adaptive_weight(small, large, weight).item() == pytest.approx(0.1, rel=1e-3)
    assert adaptive_weight(large, small, weight).item() == 1.0
    assert adaptive_weight(large, small, weight, maximum=4.0).item() == 4.0
    assert not adaptive_weight(small, large, weight).requires_grad


def test_adversarial_loss_leaves_the_discriminator_alone() -> None:
    discriminator = PatchDiscriminator(8, 2)
    weight = nn.Parameter(torch.tensor(0.5))
    fake = weight * torch.rand(1, 3, 32, 32)
    loss, figures = balanced_adversarial_loss(discriminator, fake, (fake - 1).abs().mean(), weight)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad != 0
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert set(figures) == {"adversarial", "adaptive_weight"}


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
    params = dataclasses.replace(CODEBOOK, perceptual_weight=0.3, adversarial_weight=0.7, revived_share=0.0)
    objective = CodebookSpec(params, NETWORK, SIZE, "").build()
    for step in (4, 5):
        result = objective.step(batch, step)
        logs = {name: value.item() for name, value in result.logs.items()}
        assert result.fake is not None
        assert logs["l1"] == pytest.approx((result.fake - batch["hq"]).abs().mean().item(), rel=1e-5)
        expected = logs["l1"] + 0.3 * logs["perceptual"] + logs["codebook"]
        if step == 5:
            expected += 0.7 * logs["adaptive_weight"] * logs["adversarial"]
            assert logs["adaptive_weight"] * logs["adversarial"] != 0
        assert result.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_stage_two_is_its_terms_by_their_weights(
    prediction: CodePredictionSpec, batch: dict[str, Tensor]
) -> None:
    params = dataclasses.replace(PREDICTION, feature_weight=0.3, cross_entropy_weight=0.7)
    result = dataclasses.replace(prediction, params=params).build().step(batch, 0)
    expected = 0.3 * result.logs["feature"] + 0.7 * result.logs["cross_entropy"]
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_stage_three_is_its_terms_by_their_weights(
    fusion: FusionSpec, batch: dict[str, Tensor]
) -> None:
    codes = dataclasses.replace(PREDICTION, feature_weight=0.3, cross_entropy_weight=0.7)
    params = dataclasses.replace(FUSION, perceptual_weight=0.4, adversarial_weight=0.6)
    objective = dataclasses.replace(fusion, params=params, codes=codes).build()
    for step in (0, 2, 6):
        result = objective.step(batch, step)
        logs = {name: value.item() for name, value in result.logs.items()}
        expected = 0.3 * logs["feature"] + 0.7 * logs["cross_entropy"]
        if step < 6:
            assert result.fake is not None
            assert logs["l1"] == pytest.approx((result.fake - batch["hq"]).abs().mean().item(), rel=1e-5)
            expected += logs["l1"] + 0.4 * logs["perceptual"]
        if step == 2:
            expected += 0.6 * logs["adaptive_weight"] * logs["adversarial"]
            assert logs["adaptive_weight"] * logs["adversarial"] != 0
        assert result.loss.item() == pytest.approx(expected, rel=1e-5)


def test_code_prediction_starts_from_stage_one(prediction: CodePredictionSpec, stage_one: str) -> None:
    model, saved = prediction.build().model, VQAutoEncoder(NETWORK, SIZE)
    assert isinstance(model, CodeFormer)
    load_weights(saved, stage_one, "vqautoencoder")
    state = model.state_dict()
    assert all(state[key].equal(value) for key, value in saved.state_dict().items())


def test_code_prediction_trains_encoder_and_transformer(
    prediction: CodePredictionSpec, batch: dict[str, Tensor]
) -> None:
    objective = prediction.build()
    parts = {"encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}
    assert reached(objective, batch, 0) == parts
    assert {n.partition(".")[0] for n, p in objective.model.named_parameters() if p.requires_grad} == parts
    frozen = {k: v.clone() for k, v in objective.state_dict().items() if not k.startswith("model.")}
    before = objective.validate(objective.model, batch)
    train(objective, batch, range(25), 3e-3)
    after = objective.validate(objective.model, batch)
    assert after["cross_entropy"] < 0.8 * before["cross_entropy"]
    assert after["code_accuracy"] > before["code_accuracy"]
    assert all(objective.state_dict()[key].equal(value) for key, value in frozen.items())


def test_the_feature_loss_of_the_teacher_itself_is_its_distance_from_the_codes(
    prediction: CodePredictionSpec, batch: dict[str, Tensor]
) -> None:
    objective = prediction.build()
    clean = {**batch, "lq": batch["hq"]}
    latent = load_stage_one(prediction.codebook, NETWORK, SIZE).encoder(batch["hq"])
    distances = torch.cdist(
        latent.flatten(2).transpose(1, 2).double(), objective.model.quantize.embedding.weight.double()
    )
    expected = distances.amin(2).square().mean() / latent.shape[1]
    assert objective.step(clean, 0).logs["feature"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_curriculum(fusion: FusionSpec) -> None:
    phases = [(fusion.degradation_for(step), fusion.phase(step).w) for step in range(21)]
    small, strong, large = ("small", 1.0), ("small", 1.3), ("large", 0.0)
    late = [strong if step % 5 == 0 else large for step in range(9, 21)]
    assert phases == [small] * 3 + [strong] * 3 + [large] * 3 + late
    assert late.count(strong) == 3


def test_fusion_trains_through_every_boundary(fusion: FusionSpec, batch: dict[str, Tensor]) -> None:
    objective = fusion.build()
    codes = {"encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}
    for step in (0, 2, 3, 5, 6, 8, 9, 10, 11, 15):
        fusing = fusion.phase(step).w > 0
        assert reached(objective, batch, step) == (codes | {"fuse_convs_dict"} if fusing else codes)
        result = objective.step(batch, step)
        assert (result.fake is not None) == (result.real is not None) == fusing
        assert ("adversarial" in result.logs) == (fusing and step >= FUSION.discriminator_start)


def test_image_losses_reach_the_fuse_blocks_only(fusion: FusionSpec, batch: dict[str, Tensor]) -> None:
    unweighted = dataclasses.replace(PREDICTION, feature_weight=0.0, cross_entropy_weight=0.0)
    objective = dataclasses.replace(fusion, codes=unweighted).build()
    train(objective, batch, range(1))
    assert reached(objective, batch, 0) == {"fuse_convs_dict"}


def test_fusion_improves_the_identity_end(fusion: FusionSpec, batch: dict[str, Tensor]) -> None:
    objective = fusion.build()
    before = objective.validate(objective.model, batch)
    assert before["psnr_id"] == before["psnr_gp"]
    curriculum = dataclasses.replace(FUSION, curriculum=(30, 31, 32), discriminator_start=100)
    objective = dataclasses.replace(fusion, params=curriculum).build()
    train(objective, batch, range(15), 3e-3)
    after = objective.validate(objective.model, batch)
    assert after["psnr_id"] > before["psnr_id"] + 1


def test_what_stage_three_makes_is_a_prior(fusion: FusionSpec, tmp_path: Path) -> None:
    objective = fusion.build()
    save_model(tmp_path / "prior", objective.model, Card(kind=fusion.kind, config=fusion.config, steps=3))
    prior = load_prior(tmp_path / "prior")
    lq = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    for picture in prior.restore_pair(lq):
        assert picture.shape == lq.shape
        assert picture.abs().max() <= 1


def test_hand_off_refuses_untrained_and_foreign_weights(
    tmp_path: Path, prediction: CodePredictionSpec, fusion: FusionSpec
) -> None:
    first = CodebookSpec(CODEBOOK, NETWORK, SIZE, "")
    untrained = save(tmp_path / "untrained", first, first.build().model, steps=0)
    with pytest.raises(WeightsError, match="never trained"):
        dataclasses.replace(prediction, codebook=untrained).build()
    with pytest.raises(WeightsError, match="holds a codeformer, not a vqautoencoder"):
        dataclasses.replace(prediction, codebook=fusion.code_prediction).build()
    wider = dataclasses.replace(NETWORK, codebook_size=32)
    with pytest.raises(WeightsError, match=r"quantize\.embedding\.weight is \(16, 16\), expected \(32, 16\)"):
        dataclasses.replace(prediction, network=wider).build()
    another = save(tmp_path / "another", first, first.build().model)
    with pytest.raises(WeightsError, match=r"its quantize\.embedding\.weight is not that of"):
        dataclasses.replace(fusion, codebook=another).build()


def test_stage_three_refuses_what_is_not_stage_two_of_its_stage_one(
    tmp_path: Path, prediction: CodePredictionSpec, fusion: FusionSpec
) -> None:
    def refused(named: str, folder: str) -> None:
        with pytest.raises(WeightsError, match=named):
            dataclasses.replace(fusion, code_prediction=folder).build()

    model = prediction.build().model
    refused("never trained", save(tmp_path / "untrained", prediction, model, steps=0))
    refused("holds a vqautoencoder, not a codeformer", fusion.codebook)
    heads = dataclasses.replace(prediction, network=dataclasses.replace(NETWORK, transformer_heads=4))
    refused("its card names another network", save(tmp_path / "heads", heads, heads.build().model))
    with torch.no_grad():
        model.generator.last_layer[0, 0, 0, 0] += 1
    refused(r"its generator\.blocks\.\d+\.weight is not that of", save(tmp_path / "g", prediction, model))


def test_specs_are_picklable_and_pictures_have_their_shape(
    prediction: CodePredictionSpec, fusion: FusionSpec, batch: dict[str, Tensor]
) -> None:
    specs: list[tuple[ObjectiveSpec, int]] = [
        (CodebookSpec(CODEBOOK, NETWORK, SIZE, ""), 2),
        (prediction, 3),
        (fusion, 4),
    ]
    for spec, columns in specs:
        copy = pickle.loads(pickle.dumps(spec))
        assert copy == spec
        assert set(spec.columns) <= set(batch)
        objective = copy.build()
        with torch.no_grad():
            sheet = objective.pictures(objective.model, batch)
        assert sheet is not None
        assert sheet.shape == (3, 2 * SIZE, columns * SIZE)
        assert sheet.abs().max() <= 1


@pytest.mark.parametrize("step", [0, 4, 7])
def test_half_precision_step_is_close_to_full(
    fusion: FusionSpec, batch: dict[str, Tensor], step: int
) -> None:
    objective = fusion.build()
    full = objective.step(batch, step).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = objective.step(batch, step).loss
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)

"""Stages 2 and 3 of the prior: what each trains, leaves alone, takes over and hands on."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import load_prior, load_stage_one
from cfpp.models.weights import Card, WeightsError, load_weights, save_model
from cfpp.objectives.base import ObjectiveSpec
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.objectives.fusion import FusionSpec
from tests.objectives.tiny_stages import CODEBOOK, FUSION, NETWORK, PREDICTION, SIZE, reached, save, train

pytestmark = pytest.mark.usefixtures("seeded")


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

"""The network against numbers of the reference implementation (shared/codeformer/parity)."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.codeformer.layers import (
    AttnBlock,
    Downsample,
    FuseBlock,
    ResBlock,
    TransformerLayer,
    Upsample,
    adain,
    channel_statistics,
)
from cfpp.models.codeformer.quantizer import VectorQuantizer
from cfpp.models.discriminator import PatchDiscriminator
from cfpp.models.prior import OFFICIAL_NETWORK
from cfpp.training_params import NetworkParams

SMALL_128 = NetworkParams(
    width=32,
    multipliers=(1, 1, 2, 2),
    res_blocks=2,
    codebook_size=64,
    embed_dim=256,
    transformer_dim=64,
    transformer_heads=4,
    transformer_layers=2,
    fuse=(32, 64, 128),
)
NARROW_512 = NetworkParams(
    width=32,
    multipliers=(1, 1, 1, 1, 1, 2),
    res_blocks=2,
    codebook_size=128,
    embed_dim=256,
    transformer_dim=64,
    transformer_heads=8,
    transformer_layers=3,
    fuse=(32, 64, 128, 256),
)
SMALL_AUTOENCODER = NetworkParams(
    width=32,
    multipliers=(1, 1, 2),
    res_blocks=2,
    codebook_size=64,
    embed_dim=32,
    transformer_dim=32,
    transformer_heads=4,
    transformer_layers=1,
    fuse=(),
)
WEIGHTS_OF_IDENTITY = ("0", "0.5", "1")
CROP = (slice(None), slice(None), slice(200, 232), slice(240, 272))

Case = dict[str, Tensor]


@pytest.fixture
def parity(shared: Path) -> Path:
    return shared / "codeformer" / "parity"


def read(parity: Path, name: str) -> Case:
    with np.load(parity / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def filled(module: nn.Module, case: Mapping[str, Tensor]) -> nn.Module:
    """The module in eval mode, its own keys (in order) being those of the reference."""
    state = {key.removeprefix("param/"): value for key, value in case.items() if key.startswith("param/")}
    assert list(state) == list(module.state_dict())
    module.load_state_dict(state)
    return module.eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def draw(name: str, shape: tuple[int, ...], scale: float, offset: float, seed: int) -> Tensor:
    """The recipe of the parity README for values that are not stored."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    values = np.random.Generator(np.random.PCG64(sequence)).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values * np.float32(scale) + np.float32(offset))


def draw_parameter(tag: str, key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    norm = len(shape) == 1 and key.endswith("weight")
    if key.endswith("position_emb"):
        scale, offset = 0.5, 0.0
    elif key.endswith("embedding.weight"):
        scale, offset = 1.0, 0.0
    elif key.endswith("idx_pred_layer.1.weight"):
        scale, offset = 4 / np.sqrt(shape[1]), 0.0
    elif len(shape) == 1:
        scale, offset = 0.1, float(norm)
    else:
        scale, offset = 1 / np.sqrt(np.prod(shape[1:])), 0.0
    return draw(f"{tag}/{key}", shape, float(scale), offset, seed)


@pytest.fixture
def seed(parity: Path) -> int:
    value: int = json.loads((parity / "manifest.json").read_text())["seed"]
    return value


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "module", "pairs"),
    [
        ("resblock_same", ResBlock(32, 32), [("x", "y")]),
        ("resblock_proj", ResBlock(64, 32), [("x", "y")]),
        ("attnblock", AttnBlock(32), [("x", "y")]),
        ("downsample", Downsample(8), [("x", "y"), ("x_odd", "y_odd")]),
        ("upsample", Upsample(8), [("x", "y")]),
    ],
)
def test_block(parity: Path, name: str, module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    case = read(parity, name)
    module = filled(module, case)
    for source, result in pairs:
        close(module(case[f"in/{source}"]), case[f"out/{result}"])


@torch.inference_mode()
def test_fuse_block(parity: Path) -> None:
    case = read(parity, "fuse_sft_block")
    module = filled(FuseBlock(32), case)
    for w in ("0", "0.5", "1", "1.3"):
        close(module(case["in/enc_feat"], case["in/dec_feat"], float(w)), case[f"out/y_w{w}"])


@torch.inference_mode()
def test_transformer_layer(parity: Path) -> None:
    case = read(parity, "transformer_sa_layer")
    module = filled(TransformerLayer(32, 4, 64), case)
    close(module(case["in/tgt"], case["in/query_pos"]), case["out/y_pos"])
    close(module(case["in/tgt"]), case["out/y_nopos"])


def test_adain(parity: Path) -> None:
    case = read(parity, "adain")
    for name in ("content", "style"):
        mean, std = channel_statistics(case[f"in/{name}"])
        close(mean, case[f"out/{name}_mean"])
        close(std, case[f"out/{name}_std"])
    close(adain(case["in/content"], case["in/style"]), case["out/y"])


def test_quantizer_values_and_gradients(parity: Path) -> None:
    case = read(parity, "vector_quantizer")
    module = filled(VectorQuantizer(64, 16), case)
    latent = case["in/z"].requires_grad_()
    out = module(latent)
    assert out.indices.equal(case["out/indices"])
    close(out.features, case["out/z_q"])
    close(out.loss, case["out/loss"])
    close(out.perplexity, case["out/perplexity"])
    close(out.mean_distance, case["out/mean_distance"])
    (3 * out.loss + (out.features * case["in/upstream_grad"]).sum()).backward()
    assert latent.grad is not None
    close(latent.grad, case["out/grad_z"])
    gradient = module.get_parameter("embedding.weight").grad
    assert gradient is not None
    close(gradient, case["out/grad_embedding"])


def test_quantizer_looks_up(parity: Path) -> None:
    case = read(parity, "vector_quantizer")
    module = filled(VectorQuantizer(64, 16), case)
    assert isinstance(module, VectorQuantizer)
    indices = case["out/indices"].view(2, 24)
    assert module.encode(case["in/z"]).equal(indices)
    close(module.look_up(indices, 4, 6), case["out/codebook_feat"])


def test_discriminator(parity: Path) -> None:
    case = read(parity, "discriminator")
    module = filled(PatchDiscriminator(8, 4), case)
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    after = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr]
    with torch.inference_mode():
        for norm in norms:
            norm.momentum = 1.0
        close(module.train()(case["in/x"]), case["out/y_train"])
        # The stored buffers are those after the train-mode forward, but the eval output was taken before it:
        # wind them back by the batch's statistics.
        for norm, stored in zip(norms, after, strict=True):
            norm.momentum = 0.1
            for buffer, value in zip((norm.running_mean, norm.running_var), stored, strict=True):
                assert buffer is not None
                buffer.copy_((value - 0.1 * buffer) / 0.9)
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.zero_()
        close(module.eval()(case["in/x"]), case["out/y_eval"])
        module.train()(case["in/x"])
    state = module.state_dict()
    buffers = [key for key in case if key.startswith("out/after_train/")]
    assert len(buffers) == 12
    for key in buffers:
        close(state[key.removeprefix("out/after_train/")], case[key])


@torch.inference_mode()
def test_autoencoder(parity: Path) -> None:
    case = read(parity, "vqautoencoder_small")
    out = filled(VQAutoEncoder(SMALL_AUTOENCODER, 64), case)(case["in/x"])
    close(out.latent, case["out/latent"])
    assert out.indices.equal(case["out/indices"])
    close(out.loss, case["out/codebook_loss"])
    close(out.perplexity, case["out/perplexity"])
    torch.testing.assert_close(out.picture, case["out/recon"], atol=1e-3, rtol=0)


def check_whole(model: nn.Module, picture: Tensor, case: Case) -> None:
    """Every output that ``case`` stores, whole or at stride 8, in a crop and as mean and deviation."""
    for use_adain in (False, True):
        for w in WEIGHTS_OF_IDENTITY:
            out = model(picture, float(w), use_adain=use_adain)
            name = f"out/y_w{w}_adain{int(use_adain)}"
            found = {name: out.picture, f"{name}_stride8": out.picture[..., ::8, ::8]}
            found[f"{name}_crop"] = out.picture[CROP]
            deviation, mean = torch.std_mean(out.picture.double(), dim=(2, 3), correction=0)
            found[f"{name}_mean_std"] = torch.stack([mean, deviation])
            stored = [key for key in found if key in case]
            assert stored
            for key in stored:
                torch.testing.assert_close(found[key], case[key], atol=1e-3, rtol=0)
            torch.testing.assert_close(out.logits, case["out/logits"], atol=2e-4, rtol=0)
            torch.testing.assert_close(out.latent, case["out/lq_feat"], atol=5e-5, rtol=0)
            assert out.logits.argmax(2).equal(case["out/top_idx"])


@torch.inference_mode()
def test_whole_network_at_128(parity: Path) -> None:
    case = read(parity, "codeformer_small_128")
    model = filled(CodeFormer(SMALL_128, 128), case)
    assert isinstance(model, CodeFormer)
    check_whole(model, case["in/x"], case)
    codes = model.code_features(case["out/logits"], case["out/lq_feat"], use_adain=False)
    close(codes, case["out/quant_feat"])


@torch.inference_mode()
def test_whole_network_at_512(parity: Path, seed: int) -> None:
    case = read(parity, "codeformer_narrow_512")
    picture = draw("cf512n/x", (1, 3, 512, 512), 0.5, 0.0, seed).clamp(-1, 1)
    assert picture[..., ::8, ::8].equal(case["in/x_stride8"])
    check_whole(filled(CodeFormer(NARROW_512, 512), case), picture, case)


@torch.inference_mode()
def test_official_network(parity: Path, shared: Path, seed: int) -> None:
    case = read(parity, "codeformer_default_seeded")
    layout = json.loads((shared / "codeformer" / "layout.json").read_text())["CodeFormer"]
    model = CodeFormer(OFFICIAL_NETWORK, 512).eval()
    shapes = [(key, list(value.shape)) for key, value in model.state_dict().items()]
    assert shapes == [(key, shape) for key, shape, *_ in layout["state_dict"]]
    for key, value in model.state_dict().items():
        value.copy_(draw_parameter("cfdef", key, tuple(value.shape), seed))
        if (check := case.get(f"check/{key}")) is not None:
            flat = value.flatten().double()
            close(torch.cat([flat[:4], flat[-4:], flat.sum()[None]]), check)
    for part, blocks in (("encoder", model.encoder.taps), ("generator", model.generator.taps)):
        assert {str(side): block for side, block in blocks.items()} == layout[f"fuse_{part}_block"]
    picture = draw("cfdef/x", (1, 3, 512, 512), 0.5, 0.0, seed).clamp(-1, 1)
    assert picture[..., ::8, ::8].equal(case["in/x_stride8"])
    check_whole(model, picture, case)


def randomised(network: NetworkParams, image_size: int) -> CodeFormer:
    """Random weights, the zero-initialised fuse branches included."""
    model = CodeFormer(network, image_size).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.fuse_convs_dict.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    return model


@pytest.mark.parametrize("fuse", [(32, 64, 128), (128,), (16, 64), ()])
def test_pair_equals_two_forwards(fuse: tuple[int, ...]) -> None:
    model = randomised(dataclasses.replace(SMALL_128, fuse=fuse), 128)
    lq = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    i_f, i_g = model.restore_pair(lq)
    with torch.inference_mode():
        assert i_f.equal(model(lq, 1.0).picture.clamp(-1, 1))
        assert i_g.equal(model(lq, 0.0).picture.clamp(-1, 1))
    assert i_f.equal(i_g) == (fuse == ())


def test_pair_runs_shared_blocks_once() -> None:
    model = randomised(SMALL_128, 128)
    calls = dict.fromkeys(range(len(model.generator.blocks)), 0)

    def counting(index: int) -> None:
        def count(*_: object) -> None:
            calls[index] += 1

        model.generator.blocks[index].register_forward_hook(count)

    for index in calls:
        counting(index)
    model.restore_pair(torch.zeros(1, 3, 128, 128))
    first_fused = model.generator.taps[32]
    assert all(count == (1 if index <= first_fused else 2) for index, count in calls.items())


def test_starts_without_fusing() -> None:
    i_f, i_g = CodeFormer(SMALL_128, 128).eval().restore_pair(torch.zeros(1, 3, 128, 128))
    assert i_f.equal(i_g)


def test_refuses_geometry_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="from 128 pixels, but the pictures have 256"):
        CodeFormer(SMALL_128, 256)
    with pytest.raises(ValueError, match=r"fuse: must name sides among \[16, 32, 64, 128\]"):
        dataclasses.replace(SMALL_128, fuse=(256,))

"""The degradation of `degradation.apply` for a batch of faces, on any torch device.

The same recipe on the same draws, to within rounding: the blur is a product of Fourier transforms,
both resizes are matrix products, and the JPEG codec is libjpeg's arithmetic at 4:2:0, without the
entropy coding, in tensors. kornia's codec would not do: made for gradients, it rounds softly and
averages chroma over more pixels, so that its pictures were 31 to 48 dB from libjpeg's.

Small pictures differ in side, so each sits at the top left of one padded tensor.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cfpp.data.degradation import (
    REFERENCE_SIDE,
    Degradation,
    sample_positions,
    scaled_kernel,
    small_side,
)

MCU = 16
"""Side of what a JPEG codes at a time at 4:2:0, pixels."""

# Annex K of the JPEG standard, for luminance and for chrominance.
_TABLES = (
    (
        (16, 11, 10, 16, 24, 40, 51, 61),
        (12, 12, 14, 19, 26, 58, 60, 55),
        (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62),
        (18, 22, 37, 56, 68, 109, 103, 77),
        (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101),
        (72, 92, 95, 98, 112, 100, 103, 99),
    ),
    (
        (17, 18, 24, 47, 99, 99, 99, 99),
        (18, 21, 26, 66, 99, 99, 99, 99),
        (24, 26, 56, 99, 99, 99, 99, 99),
        (47, 66, 99, 99, 99, 99, 99, 99),
        (99, 99, 99, 99, 99, 99, 99, 99),
        (99, 99, 99, 99, 99, 99, 99, 99),
        (99, 99, 99, 99, 99, 99, 99, 99),
        (99, 99, 99, 99, 99, 99, 99, 99),
    ),
)


@torch.no_grad()
def apply_batch(
    pictures: Tensor,
    degradations: Sequence[Degradation],
    rngs: Sequence[np.random.Generator],
    *,
    kernel_size: int = 41,
    size_reference: int = REFERENCE_SIDE,
) -> Tensor:
    """Degrade clean faces, each by its own degradation.

    Needs float32 products, as torch has them unless told otherwise: TF32 would blur the transforms.

    Args:
        pictures: uint8 [B, S, S, 3] RGB, on the device to work on.
        degradations: B of them.
        rngs: B sources of noise; each is drawn from as `degradation.apply` does, so that the noise, too,
            is the same.
        kernel_size: side of the blur kernel at `size_reference`, pixels, odd.
        size_reference: side at which the degradations' pixels are stated.

    Returns:
        uint8 [B, S, S, 3] RGB, on the same device.

    Raises:
        ValueError: the pictures are not square, or there are not as many draws and rngs.
    """
    count, side = pictures.shape[:2]
    if pictures.shape != (count, side, side, 3):
        raise ValueError(f"expected square pictures [B, S, S, 3], found {tuple(pictures.shape)}")
    if not count == len(degradations) == len(rngs):
        raise ValueError(f"{count} pictures, {len(degradations)} degradations, {len(rngs)} generators")
    device = pictures.device
    kernels = np.stack([scaled_kernel(item, side, kernel_size, size_reference) for item in degradations])
    small_sides = [small_side(item, side, size_reference) for item in degradations]
    quality = torch.tensor([item.jpeg for item in degradations], device=device)

    blurred = _blur(pictures.permute(0, 3, 1, 2).float(), torch.from_numpy(kernels).float().to(device))
    small = _resize(blurred, [sample_positions(side, small) for small in small_sides])
    noise = _noise(small_sides, degradations, rngs).to(device)
    squeezed = jpeg((small + noise).clamp(0, 255).round(), small_sides, quality)
    back = _resize(squeezed, [sample_positions(small, side) for small in small_sides])
    return back.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _blur(planes: Tensor, kernels: Tensor) -> Tensor:
    """Filter [B, 3, S, S] by [B, k, k], symmetric about their centres, with reflected borders."""
    side, size = planes.shape[-1], kernels.shape[-1]
    padded = F.pad(planes, [size // 2] * 4, mode="reflect")
    # A multiple of 64 transforms fast; what wraps around is cut off.
    length = -(-padded.shape[-1] // 64) * 64
    spectrum = torch.fft.rfft2(padded, s=(length, length))
    spectrum *= torch.fft.rfft2(kernels, s=(length, length))[:, None]
    blurred: Tensor = torch.fft.irfft2(spectrum, s=(length, length))
    valid = slice(size - 1, size - 1 + side)
    return blurred[..., valid, valid]


def _linear(positions: Sequence[NDArray[np.float64]], width: int, device: torch.device) -> Tensor:
    """Weights of linear interpolation between `width` pixels at B lists of positions: float32 [B, n, width].

    Lists shorter than the longest, n, are continued by their last position.
    """
    longest = max(map(len, positions))
    where = np.stack([np.pad(list_, (0, longest - len(list_)), mode="edge") for list_ in positions])
    distance = torch.from_numpy(where).to(device)[..., None] - torch.arange(width, device=device)
    return (1 - distance.abs()).clamp(min=0).float()


def _resize(planes: Tensor, positions: Sequence[NDArray[np.float64]]) -> Tensor:
    """Sample [B, C, N, N] bilinearly at the crossings of B lists of positions: [B, C, n, n]."""
    weights = _linear(positions, planes.shape[-1], planes.device)[:, None]
    return weights @ planes @ weights.mT


def _noise(
    sides: Sequence[int], degradations: Sequence[Degradation], rngs: Sequence[np.random.Generator]
) -> Tensor:
    """Noise of the small pictures, of 255: float32 [B, 3, n, n], n the longest side, zeros elsewhere."""
    noise = torch.zeros(len(sides), max(sides), max(sides), 3)
    for place, side, degradation, rng in zip(noise, sides, degradations, rngs, strict=True):
        drawn = rng.standard_normal((side, side, 3), dtype=np.float32)
        place[:side, :side] = torch.from_numpy(drawn) * degradation.noise
    return noise.permute(0, 3, 1, 2)


def jpeg(planes: Tensor, sides: Sequence[int], quality: Tensor) -> Tensor:
    """What is left of pictures after JPEG at 4:2:0, as libjpeg codes and decodes them.

    Args:
        planes: whole numbers, float32 [B, 3, n, n] RGB in [0, 255], each picture at the top left.
        sides: B sides of the pictures, pixels, up to n.
        quality: [B], 1 to 100.

    Returns:
        whole numbers, float32 [B, 3, m, m] in [0, 255], m = n rounded up to 16; of use at the top left only.
    """
    padded = -(-planes.shape[-1] // MCU) * MCU
    last = torch.tensor(sides, device=planes.device)[:, None] - 1
    edge = torch.arange(padded, device=planes.device).minimum(last)
    luma, chroma = _ycc(_take(planes, edge, edge)).split([1, 2], dim=1)

    # Means of 2 x 2 pixels, rounded up in every other column where the sum leaves a half.
    sums = F.avg_pool2d(chroma, 2, divisor_override=1)
    half = padded // 2
    column = torch.arange(half, device=planes.device)
    chroma = ((sums + 1 + column % 2) / 4).floor()
    # libjpeg repeats the last column before this and the last row after it.
    chroma = _take(chroma, column.minimum(last // 2), column.expand(len(sides), -1))

    luma_table, chroma_table = _tables(quality)
    luma, chroma = _code(luma, luma_table), _code(chroma, chroma_table)

    # Bilinear to twice the side; ties are rounded up and down in turn.
    where = [np.clip((np.arange(padded) + 0.5) / 2 - 0.5, 0, (side - 1) // 2) for side in sides]
    turn = torch.arange(padded, device=planes.device) % 2
    chroma = _resize(chroma, where).mul(16).round().add(8 - turn).div(16).floor()
    return _rgb(luma, chroma)


def _take(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of [B, C, h, w] at rows [B, H] crossed with columns [B, W]: [B, C, H, W]."""
    batch = torch.arange(len(planes), device=planes.device)[:, None, None]
    return planes[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _ycc(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blueness = 128 + (blue - luma) / 1.772
    redness = 128 + (red - luma) / 1.402
    return torch.stack([luma, blueness, redness], dim=1).round()


def _rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    luma, (blueness, redness) = luma[:, 0], (chroma - 128).unbind(1)
    red = luma + (1.402 * redness).round()
    green = luma - (0.114 * 1.772 / 0.587 * blueness + 0.299 * 1.402 / 0.587 * redness).round()
    blue = luma + (1.772 * blueness).round()
    return torch.stack([red, green, blue], dim=1).clamp(0, 255)


def _tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Quantisation steps of luminance and of chrominance, float32 [B, 8, 8] each."""
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    base = torch.tensor(_TABLES, device=quality.device)
    luma, chroma = ((table * scale + 50).div(100, rounding_mode="floor").clamp(1, 255) for table in base)
    return luma.float(), chroma.float()


def _code(planes: Tensor, table: Tensor) -> Tensor:
    """Quantise the cosine transforms of the 8 x 8 blocks of [B, C, n, n] by [B, 8, 8]: whole numbers."""
    count, channels, side = planes.shape[:3]
    frequency = torch.arange(8, device=planes.device, dtype=torch.float64)
    basis = torch.cos((2 * frequency + 1) * frequency[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    basis = basis.float()
    blocks = planes.view(count, channels, side // 8, 8, side // 8, 8).transpose(3, 4) - 128
    steps = table[:, None, None, None]
    # Eighths of a coefficient, as libjpeg counts them, so that halves are found as halves: away from zero.
    eighths = (8 * (basis @ blocks @ basis.T)).round()
    levels = eighths.sign() * ((eighths.abs() + 4 * steps) / (8 * steps)).floor()
    decoded = (basis.T @ (levels * steps) @ basis + 128).round().clamp(0, 255)
    return decoded.transpose(3, 4).reshape(count, channels, side, side)

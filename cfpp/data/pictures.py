"""Pictures (uint8 [H, W, 3] RGB), their bytes, and their tensors (float32 [B, 3, H, W] in [-1, 1])."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from cfpp.errors import MendableError

Picture = NDArray[np.uint8]

# The fastest to decode of the exact formats of its size: docs/results.md, "Reading for training".
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class PictureError(MendableError, ValueError):
    """Bytes that are not a usable picture; the message says why."""


def decode(data: bytes) -> Picture:
    """Decode a member of a shard.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        PictureError: the bytes are not an 8-bit picture.
    """
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def decode_grey(data: bytes) -> Picture:
    """Decode a grey member, a mask: uint8 [H, W].

    Raises:
        PictureError: the bytes are not an 8-bit picture.
    """
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def encode_png(picture: Picture) -> bytes:
    """PNG of uint8 [H, W, 3] RGB, or of uint8 [H, W] grey; the same pixels give the same bytes."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise PictureError(f"expected uint8 [H, W, 3] or [H, W], found {picture.dtype} {picture.shape}")
    pixels = picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., ::-1])
    done, buffer = cv2.imencode(".png", pixels, PNG)
    if not done:
        raise PictureError(f"PNG encoding failed for a picture of shape {picture.shape}")
    return bytes(buffer)


def decode_photo(data: bytes, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a photo from anywhere: JPEG, PNG, WebP, BMP, TIFF or PPM of any colour mode.

    Turned upright by its EXIF orientation. Grey, palette and CMYK become RGB; 16 bits are scaled to
    8, not clipped; transparency is laid over mid-grey, so that a cut-out does not get a black halo.
    Colour profiles are not applied. Size is judged by the header, before any pixel is decoded.

    Args:
        min_side: pixels; a picture with a shorter side is refused.
        max_pixels: a picture with more pixels is refused.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        PictureError: empty, truncated, not a picture, too small or too large.
    """
    with opened(data, min_side, max_pixels) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def decode_exactly(data: bytes) -> tuple[Picture, str]:
    """Decode a picture that is measured, or that others are measured by: nothing is altered in silence.

    As `decode_photo`, but what could be read in more than one way is refused: with real transparency (over
    which ground?), or with 16 bits that are not 8 bits written longer.

    Returns:
        uint8 [H, W, 3] RGB, and what was done to it ("" = nothing).

    Raises:
        PictureError: as `decode_photo`; transparent in places; more bits than 8 hold; several frames.
    """
    with opened(data, 1, MAX_PIXELS) as image:
        notes = []
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # whose later pictures are previews and depths
            raise PictureError(f"{frames} frames or pages: save the one that is meant")
        # Pillow alone knows every kind of transparency, OpenCV alone the depth of every kind of picture.
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is None:
            raise PictureError("a kind of picture whose depth cannot be told; save it as 8-bit PNG")
        if stored.dtype != np.uint8:
            if stored.dtype != np.uint16 or (stored % 257).any():
                raise PictureError(
                    f"{8 * stored.dtype.itemsize} bits a channel: 8 do not hold them; save it anew"
                )
            if "transparency" in image.info:  # which pixels have it, Pillow does not say at this depth
                raise PictureError(
                    "16 bits with a transparent colour: flatten it on the ground that was meant"
                )
            notes.append("16 bits that are 8 bits")
        if image.has_transparency_data:
            if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise PictureError("transparent in places: flatten it on the ground that was meant")
            notes.append("opaque alpha dropped")
        if Image.getmodebase(image.mode) == "L":
            notes.append("grey to RGB")
        elif image.mode in ("CMYK", "LAB"):
            notes.append(f"{image.mode} to RGB")
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            notes.append("turned upright by EXIF")
        if (profile := _profile_name(image)) and "srgb" not in profile.lower():
            notes.append(f"colour profile not applied: {profile}")
        return to_rgb(ImageOps.exif_transpose(image)), "; ".join(notes)


@contextmanager
def opened(data: bytes, min_side: int, max_pixels: int) -> Iterator[Image.Image]:
    """The picture in these bytes, loaded; what goes wrong with it is a PictureError.

    Args:
        data: of a file, in one of `FORMATS`.
        min_side, max_pixels: as in `decode_photo`.
    """
    if not data:
        raise PictureError("empty file")
    try:
        with warnings.catch_warnings():
            # Our own max_pixels, checked right below, stands for the size at which Pillow warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, min_side, max_pixels)
                image.load()
                yield image
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a picture, whatever its name says") from None
    except Image.DecompressionBombError:  # raised at twice the size at which it warns, by the header alone
        raise PictureError(f"too large: more than {max_pixels} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise PictureError(f"damaged or truncated: {error}") from None


def resize_square(picture: Picture, size: int) -> Picture:
    """Crop the central square and resize it to `size`: area averaging down, bicubic up."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if side == size:
        return square
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (size, size), interpolation=how), dtype=np.uint8)


def to_tensor(pictures: Picture) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pictures(images: Tensor) -> Picture:
    """float [B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3], clamped and rounded."""
    pixels = ((images.detach().float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _profile_name(image: Image.Image) -> str:
    """What the picture's colour profile calls itself; "" without one."""
    if not image.info.get("icc_profile"):
        return ""
    try:
        return ImageCms.getProfileDescription(
            ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        ).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unreadable"


def _decode(data: bytes, flag: int) -> Picture:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if pixels is None:
        raise PictureError(f"cannot decode {len(data)} bytes as a picture")
    return np.asarray(pixels, dtype=np.uint8)


def _check_size(size: tuple[int, int], min_side: int, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureError(f"too large: {width} x {height} is more than {max_pixels} pixels")
    if min(width, height) < min_side:
        raise PictureError(f"too small: {width} x {height} has a side under {min_side} pixels")


def to_rgb(image: Image.Image) -> Picture:
    """8-bit RGB of any mode, as `decode_photo` says.

    Raises:
        PictureError: pixels without a known white point.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):  # 16-bit grey PNG and TIFF
        deep: NDArray[Any] = np.asarray(image).astype(np.float64)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError("grey values beyond 16 bits have no known white point")
        grey = np.rint(deep / 257.0).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if image.mode == "F":
        raise PictureError("floating-point pixels have no known white point")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        cutout = image.convert("RGBA")
        ground = Image.new("RGBA", cutout.size, (128, 128, 128, 255))
        image = Image.alpha_composite(ground, cutout)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def save(path: Path, picture: Picture) -> None:
    """Write a picture [H, W, 3] to `path`, in the format of its ending (.jpg at quality 92, .png, ...)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=92)

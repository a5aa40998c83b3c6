"""Any photo becomes upright 8-bit RGB, and pictures survive PNG and tensors unchanged."""

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from cfpp.data.pictures import (
    PictureError,
    decode,
    decode_exactly,
    decode_grey,
    decode_photo,
    encode_png,
    resize_square,
    to_pictures,
    to_tensor,
)
from tests.data.picture_makers import colours, png_header

NOISE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_png_round_trip_is_exact_and_rgb() -> None:
    picture = colours()
    data = encode_png(picture)
    assert (decode(data) == picture).all()
    assert (np.asarray(Image.open(io.BytesIO(data))) == picture).all()  # Pillow agrees on the channels
    assert encode_png(picture.copy()) == data
    assert (decode_grey(encode_png(picture[..., 0])) == picture[..., 0]).all()


def test_tensor_round_trip_is_exact_for_every_value() -> None:
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = to_tensor(picture)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert (to_pictures(tensor) == picture).all()
    assert (to_pictures(torch.full((1, 3, 2, 2), 7.0)) == 255).all()


def test_modes_become_rgb() -> None:
    picture = colours()
    image = Image.fromarray(picture)
    assert (decode_photo(saved(image, "PNG")) == picture).all()
    assert (decode_photo(saved(image, "TIFF")) == picture).all()
    grey = decode_photo(saved(image.convert("L"), "PNG"))
    assert (grey == np.asarray(image.convert("L"))[..., None]).all()
    cmyk = decode_photo(saved(image.convert("CMYK"), "JPEG", quality=98))
    assert np.abs(cmyk.astype(int) - picture).mean() < 4
    palette = decode_photo(saved(image.quantize(64), "PNG"))
    assert np.abs(palette.astype(int) - picture).mean() < 20
    assert palette.shape == picture.shape


def test_transparency_is_laid_over_mid_grey() -> None:
    picture = np.dstack([colours(), np.zeros((40, 40), np.uint8)])
    picture[:20, :, 3] = 255
    out = decode_photo(saved(Image.fromarray(picture), "PNG"))
    assert (out[:20] == picture[:20, :, :3]).all()
    assert (out[20:] == 128).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_grey_is_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), deep)
    out = decode_photo((tmp_path / f"deep{suffix}").read_bytes())
    assert np.abs(out[..., 1].astype(float) - deep / 257.0).max() <= 0.5
    assert out.shape == (40, 40, 3)


def test_16_bit_rgb_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = (colours().astype(np.uint16) * 257)[..., ::-1]
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert np.abs(decode_photo((tmp_path / "deep.png").read_bytes()).astype(int) - colours()).max() <= 1


def test_exif_orientation_is_honoured() -> None:
    picture = colours()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: show it turned right
    data = saved(Image.fromarray(np.rot90(picture)), "PNG", exif=exif)
    assert (decode_photo(data) == picture).all()


def png(pixels: np.ndarray) -> bytes:
    """By Pillow, uint8; or by OpenCV, uint16."""
    if pixels.dtype == np.uint16:
        return bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1])
    return saved(Image.fromarray(pixels), "PNG")


def with_alpha(colours: np.ndarray, alpha: int) -> np.ndarray:
    """Opaque but for one pixel."""
    pixels = np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])
    pixels[3, 5, -1] = alpha
    return pixels


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: show it turned right
    return saved(Image.fromarray(np.rot90(NOISE)), kind, exif=exif)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (encode_png(NOISE), ""),
        (png(with_alpha(NOISE, 255)), "opaque alpha dropped"),
        (png(NOISE.astype(np.uint16) * 257), "16 bits that are 8 bits"),
        (
            cv2.imencode(".tiff", NOISE[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
            "16 bits that are 8 bits",
        ),
        (turned("PNG"), "turned upright by EXIF"),
        (saved(Image.fromarray(NOISE), "PNG", exif=Image.Exif()), ""),
    ],
)
def test_what_has_one_meaning_is_read_to_the_pixel(data: bytes, note: str) -> None:
    picture, altered = decode_exactly(data)
    np.testing.assert_array_equal(picture, NOISE)
    assert altered == note


def test_what_becomes_rgb_is_said_to() -> None:
    picture, altered = decode_exactly(png(NOISE[..., 0]))
    assert (picture == NOISE[..., :1]).all()
    assert altered == "grey to RGB"
    _, altered = decode_exactly(png(with_alpha(NOISE[..., :1], 255)))
    assert altered == "opaque alpha dropped; grey to RGB"
    _, altered = decode_exactly(saved(Image.fromarray(NOISE).convert("CMYK"), "JPEG"))
    assert altered == "CMYK to RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(with_alpha(NOISE, 254)), "transparent in places"),
        (png(with_alpha(NOISE[..., :1], 254)), "transparent in places"),
        (saved(Image.fromarray(with_alpha(NOISE[..., :1], 254)), "TIFF"), "transparent in places"),
        (
            saved(Image.fromarray(NOISE[..., 0]), "PNG", transparency=int(NOISE[0, 0, 0])),
            "transparent in places",
        ),
        (
            saved(Image.fromarray(NOISE), "PNG", transparency=tuple(map(int, NOISE[0, 0]))),
            "transparent in places",
        ),
        (saved(Image.fromarray(NOISE).quantize(64), "PNG", transparency=bytes(64)), "transparent in places"),
        (png(with_alpha(NOISE, 254).astype(np.uint16) * 257), "transparent in places"),
        (png(NOISE.astype(np.uint16) * 257 + 1), "16 bits a channel"),
        (png(NOISE[..., 0].astype(np.uint16) * 256), "16 bits a channel"),
        (png(NOISE)[:200], "truncated"),
        (b"", "empty file"),
        (b"GIF89a and so on", "not a picture"),
    ],
)
def test_what_has_not_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode_exactly(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_frames_behind_the_first_are_not_lost_in_silence(kind: str) -> None:
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="2 frames or pages"):
        decode_exactly(data)


def test_a_colour_profile_that_is_not_applied_is_said() -> None:
    def with_profile(name: str) -> bytes:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
        return saved(Image.fromarray(NOISE), "PNG", icc_profile=profile)

    assert decode_exactly(with_profile("sRGB"))[1] == ""
    picture, note = decode_exactly(with_profile("LAB"))
    assert note.startswith("colour profile not applied: ")
    np.testing.assert_array_equal(picture, NOISE)


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    data = png(NOISE[..., 0].astype(np.uint16) * 257)
    chunk = b"tRNS" + int(NOISE[0, 0, 0]).to_bytes(1, "big") * 2
    packed = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    start = data.index(b"IDAT") - 4
    with pytest.raises(PictureError, match="16 bits with a transparent colour"):
        decode_exactly(data[:start] + packed + data[start:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just text, whatever the name says\n" * 20, "not a picture"),
        (saved(Image.fromarray(colours(200)), "JPEG")[:1500], "truncated"),
        (saved(Image.fromarray(colours(200)), "PNG")[:400], "truncated"),
        (saved(Image.fromarray(colours(30)), "PNG"), "too small: 30 x 30"),
        (saved(Image.new("RGB", (2000, 100)), "PNG"), "too large: 2000 x 100"),
    ],
)
def test_bad_pictures_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode_photo(data, min_side=64, max_pixels=100_000)


def test_an_image_beyond_pillows_own_limit_is_refused_by_its_header() -> None:
    huge = png_header(20_000, 20_000)
    with pytest.raises(PictureError, match="too large"):
        decode_photo(huge)


def test_resize_takes_the_centre_and_averages() -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    assert (resize_square(wide, 32) == 200).all()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blocks = noise.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_square(noise, 16) - blocks).max() <= 0.5 + 1e-6
    assert resize_square(noise, 128).shape == (128, 128, 3)
    assert (resize_square(noise, 64) == noise).all()

"""Files in and out, read back with Pillow: pixels, metadata, and what is refused."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from cfpp.data.picture_files import (
    count_pixels,
    read_picture_file,
    upright_exif,
    upright_xmp,
    write_picture_file,
)
from cfpp.data.pictures import PictureError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:creator="A"/></x:xmpmeta>'
)
MAKE, ORIENTATION, DATE, EXIF_IFD = 271, 274, 36867, 0x8769
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([7 * x, 10 * y, 3 * x + 4 * y], axis=-1).astype(np.uint8)


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[MAKE], made[ORIENTATION] = "Camera", orientation
    made.get_ifd(EXIF_IFD)[DATE] = "2020:01:02 03:04:05"
    made[EXIF_IFD] = 0  # that the directory is there
    return made


def written(data: bytes, folder: Path, change: int = 0) -> Image.Image:
    """The file of these bytes, read and written with every pixel `change` higher."""
    file = read_picture_file(data)
    path = folder / "x.tmp"
    write_picture_file(path, file.rgb + np.uint8(change), file)
    image = Image.open(path)
    image.load()
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata_stays_and_the_picture_stands_upright(kind: str, tmp_path: Path) -> None:
    pixels = picture()
    options: dict[str, Any] = {"exif": exif(6), "icc_profile": PROFILE}
    options |= {"lossless": True} if kind == "WEBP" else {"dpi": (300, 300)}
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = XMP
    elif kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"].add_text("Title", "Garden")
    else:
        options["exif"][700] = XMP
    options |= {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = written(stored(Image.fromarray(pixels), kind, **options), tmp_path)
    assert image.format == kind
    np.testing.assert_allclose(np.asarray(image), np.rot90(pixels, -1), atol=8 if kind == "JPEG" else 0)
    found = image.getexif()
    assert found.get(ORIENTATION, 1) == 1
    assert found[MAKE] == "Camera"
    assert found.get_ifd(EXIF_IFD)[DATE] == "2020:01:02 03:04:05"
    assert image.info["icc_profile"] == PROFILE
    if kind != "WEBP":
        np.testing.assert_allclose([float(value) for value in image.info["dpi"]], 300, atol=0.1)
    if kind == "PNG":
        assert image.text["Title"] == "Garden"  # type: ignore[attr-defined]
        xmp = image.text["XML:com.adobe.xmp"].encode()  # type: ignore[attr-defined]
    else:
        xmp = found[700] if kind == "TIFF" else image.info["xmp"]
    assert xmp.rstrip(b"\0") == XMP.replace(b'"6"', b'"1"')


@pytest.mark.parametrize("kind", [*LOSSLESS, "WEBP"])
def test_lossless_files_stay_so_with_alpha_and_grey(kind: str, tmp_path: Path) -> None:
    pixels = picture()
    options = {"lossless": True} if kind == "WEBP" else {}
    image = written(stored(Image.fromarray(pixels), kind, **options), tmp_path, 5)
    np.testing.assert_array_equal(np.asarray(image), pixels + 5)
    if kind != "WEBP":
        image = written(stored(Image.fromarray(pixels[..., 0]), kind), tmp_path, 5)
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), pixels[..., 0] + 5)
    if kind not in ("PPM", "BMP"):
        alpha = np.repeat(pixels[..., :1], 4, axis=2)
        alpha[..., :3] = pixels
        options |= {"exact": True} if kind == "WEBP" else {}
        image = written(stored(Image.fromarray(alpha), kind, **options), tmp_path)
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), alpha)


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    found, place = {}, 8
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        found.setdefault(name, data[place + 8 : place + 8 + length])
        place += length + 12
    return found


COLOURS = {  # Display P3, as four chunks tell it
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    b"sRGB": b"\0",
    b"cICP": bytes([12, 13, 0, 1]),
}


@pytest.mark.parametrize("profile", [None, PROFILE])
def test_the_colour_space_of_a_png_stays(profile: bytes | None, tmp_path: Path) -> None:
    info = PngInfo()
    for name, content in COLOURS.items():
        info.add(name, content)
    data = stored(Image.fromarray(picture()), "PNG", pnginfo=info, icc_profile=profile)
    image = written(data, tmp_path)
    found = png_chunks((tmp_path / "x.tmp").read_bytes())
    kept = {name: content for name, content in COLOURS.items() if profile is None or name != b"sRGB"}
    assert {name: found[name] for name in COLOURS if name in found} == kept
    assert [*found].index(b"cICP") < [*found].index(b"IDAT")
    assert image.info.get("icc_profile") == profile
    grey = written(stored(Image.fromarray(picture()[..., 0]), "PNG", pnginfo=info), tmp_path)
    assert (grey.mode, grey.info["gamma"]) == ("L", 0.45455)
    written(stored(Image.fromarray(picture()), "PNG"), tmp_path)
    assert not {*png_chunks((tmp_path / "x.tmp").read_bytes())} & {*COLOURS}


def test_the_iptc_of_a_jpeg_is_dropped_and_it_is_said(tmp_path: Path) -> None:
    def with_resource(code: int) -> bytes:
        caption = b"\x1c\x02\x78\x00\x06garden"
        resource = b"8BIM" + struct.pack(">H2xI", code, len(caption)) + caption + b"\0"
        segment = b"Photoshop 3.0\0" + resource
        plain = stored(Image.fromarray(picture()), "JPEG")
        return plain[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]

    assert read_picture_file(with_resource(0x0404)).note == "IPTC dropped"
    assert read_picture_file(with_resource(0x03ED)).note == ""
    assert "photoshop" not in written(with_resource(0x0404), tmp_path).info


def test_a_jpeg_is_written_fine_and_without_coarser_colours(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, ::2] = (200, 30, 30)  # colours that 4:2:0 would mix
    file = read_picture_file(stored(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0))
    write_picture_file(tmp_path / "x", pixels, file)
    assert np.abs(np.asarray(Image.open(tmp_path / "x")).astype(int) - pixels).max() < 25


def test_a_transparent_colour_and_a_palette_become_an_alpha_channel(tmp_path: Path) -> None:
    image = Image.fromarray(picture()).quantize(16)
    transparent = int(np.asarray(image)[0, 0])
    out = written(stored(image, "PNG", transparency=transparent), tmp_path)
    assert out.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(out)[..., 3] == 0, np.asarray(image) == transparent)


def test_16_bits_become_8_and_it_is_said(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (8, 9, 3)).astype(np.uint16)
    for ending in (".png", ".tiff", ".ppm"):
        file = read_picture_file(bytes(cv2.imencode(ending, deep[..., ::-1])[1]))
        assert file.note == "16 bits became 8", ending
        assert np.abs(file.rgb.astype(int) - deep / 257).max() <= 1
    grey = read_picture_file(bytes(cv2.imencode(".png", deep[..., 0])[1]))
    assert (grey.note, grey.grey) == ("16 bits became 8", True)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path: Path) -> None:
    ink = Image.fromarray(picture()).convert("CMYK")
    data = stored(ink, "JPEG", quality=100, subsampling=0, icc_profile=PROFILE)  # one that does not fit
    file = read_picture_file(data)
    assert "without a colour profile" in file.note
    assert "icc_profile" not in file.extras
    assert np.abs(file.rgb.astype(int) - picture()).max() < 12
    out = written(data, tmp_path)
    assert out.mode == "RGB"
    assert "icc_profile" not in out.info


def test_cmyk_with_a_fitting_profile_goes_through_it() -> None:
    # A press profile is nowhere in the dependencies: this is the least one, whose table has two grid points.
    profile = _ink_profile()
    ink = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    file = read_picture_file(stored(ink, "TIFF", icc_profile=profile))
    assert file.note == "CMYK became sRGB by its colour profile"
    naive = np.asarray(ink.convert("RGB"))[0, 0]
    # its table is linear in L*: half of the black ink is L* of 50, sRGB 119
    np.testing.assert_allclose(file.rgb[0, 0], 119, atol=2)
    assert abs(int(naive[0]) - 119) > 5


def _ink_profile() -> bytes:
    """An ICC v2 output profile: L* falls linearly with black ink, other inks do nothing."""

    def table() -> bytes:
        grid = [(255 * (1 - key), 128, 128) for key in (0, 1)]  # Lab of 8 bits
        values = bytes(round(v) for _ in range(8) for point in grid for v in point)
        head = struct.pack(">4sIBBBB", b"mft1", 0, 4, 3, 2, 0)
        matrix = struct.pack(">9i", *(65536 * int(place in (0, 4, 8)) for place in range(9)))
        line = bytes(range(256))
        return head + matrix + line * 4 + values + line * 3

    data = table()
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    tags = [(b"A2B0", data), (b"wtpt", white)]
    place, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags:
        directory += struct.pack(">4sII", name, place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytearray(128)
    struct.pack_into(
        ">I4sI4s4s4s", header, 0, place + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63190, 65536, 54061)
    return bytes(header) + directory + body


def test_exif_is_changed_in_its_orientation_and_thumbnail_only() -> None:
    before = exif(8).tobytes()
    order = "<" if before[6:8] == b"II" else ">"
    first = struct.unpack_from(f"{order}I", before, 10)[0]
    count = struct.unpack_from(f"{order}H", before, 6 + first)[0]
    thumbnail = 6 + first + 2 + 12 * count
    before = before[:thumbnail] + struct.pack(f"{order}I", 8) + before[thumbnail + 4 :]
    after = upright_exif(before)
    [*changed] = (place for place, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
    assert len(changed) == 2
    assert thumbnail <= changed[1] < thumbnail + 4
    found = Image.Exif()
    found.load(after)
    assert dict(found)[ORIENTATION] == 1
    for broken in (b"", b"Exif\0\0", before[:20], b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"):
        assert upright_exif(broken) == broken
    assert upright_xmp(b"<tiff:Orientation>3</tiff:Orientation>") == b"<tiff:Orientation>1</tiff:Orientation>"


def test_a_phones_second_picture_is_dropped_and_named() -> None:
    first, second = Image.fromarray(picture()), Image.fromarray(picture(8, 8))
    file = read_picture_file(stored(first, "MPO", save_all=True, append_images=[second]))
    assert file.format == "JPEG"
    assert "behind the first" in file.note
    assert file.rgb.shape == (24, 36, 3)


def moving(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 90, 200)]
    return stored(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_moving_pictures_and_several_pages_are_refused(kind: str) -> None:
    with pytest.raises(PictureError, match="a GIF, animated" if kind == "GIF" else "3 frames or pages"):
        read_picture_file(moving(kind))


def no_pixels() -> bytes:
    data = bytearray(stored(Image.new("RGB", (1, 1)), "BMP"))
    struct.pack_into("<ii", data, 18, 0, 0)
    return bytes(data)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    good = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG")
    with pytest.raises(PictureError, match="empty"):
        read_picture_file(b"")
    with pytest.raises(PictureError, match="not a picture"):
        read_picture_file(b"text" * 100)
    with pytest.raises(PictureError, match="damaged or truncated"):
        read_picture_file(good[: len(good) // 2])
    with pytest.raises(PictureError, match=r"0 x 0|not a picture"):
        read_picture_file(no_pixels())
    with pytest.raises(PictureError, match="too large: 64 x 64"):
        read_picture_file(good, max_pixels=4095)
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "bad").write_bytes(b"text")
    assert [count_pixels(tmp_path / name) for name in ("good", "bad", "missing")] == [4096, 0, 0]


def test_a_picture_that_its_format_cannot_hold_is_named(tmp_path: Path) -> None:
    file = read_picture_file(stored(Image.fromarray(picture()), "WEBP"))
    with pytest.raises(PictureError, match="cannot be written as WEBP"):
        write_picture_file(tmp_path / "x", np.zeros((1, 16384, 3), np.uint8), file)

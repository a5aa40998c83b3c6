"""Pictures as files: the pixels, and all that goes with them into a changed copy.

The copy has the format of the file that it is made of. EXIF, the colour profile, the resolution, XMP, PNG's
texts and colour space and the alpha channel go with it where that format has them; the EXIF thumbnail, which
would show the picture before the change, does not, nor does a JPEG's IPTC.
"""

import io
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from cfpp.data.pictures import FORMATS, Picture, PictureError, opened, to_rgb

MAX_PIXELS = 160_000_000
"""Larger pictures are refused, unless told otherwise; Pillow itself opens none beyond 178 million."""

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION, _UPRIGHT = 0x0112, 1
_EXIF = b"Exif\0\0"
_JPEG_SEGMENT = 65_533  # bytes that one of JPEG's segments can hold
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[2-8]")
_NETPBM = re.compile(rb"P[2356]" + 2 * rb"(?:\s|#.*\n)+\d+" + rb"(?:\s|#.*\n)+(\d+)")  # its white
_PNG_XMP, _PNG_EXIF_TEXT = "XML:com.adobe.xmp", "Raw profile type exif"
_PNG_COLOURS = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
_IPTC = 0x0404  # of Photoshop's resources in a JPEG
# Those of TIFF's tags that tell of the picture, not of how its pixels are stored.
_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 316, 700, 33432, 33723)
_TIFF_DIRECTORIES = (34665, 34853)  # EXIF, GPS


@dataclass(frozen=True)
class PictureFile:
    """What a file holds.

    Attributes:
        rgb: uint8 [H, W, 3], upright; not to be written to.
        alpha: uint8 [H, W], 255 = opaque; None without.
        grey: the file has no colours.
        format: as Pillow names it.
        extras: Pillow's options for saving what goes with the pixels.
        note: what was altered in reading; "" = nothing.
    """

    rgb: Picture
    alpha: Picture | None
    grey: bool
    format: str
    extras: Mapping[str, Any]
    note: str


def read_picture_file(data: bytes, max_pixels: int = MAX_PIXELS) -> PictureFile:
    """Read a still picture with what goes with it.

    Turned upright; 16 bits become 8; CMYK becomes sRGB by its profile. Transparent pixels keep their colour.

    Raises:
        PictureError: empty, damaged, animated, without pixels, too large, or of another format.
    """
    if data[:4] == b"GIF8":
        raise PictureError("a GIF, animated or of few colours: save the picture that you mean as PNG")
    with opened(data, 1, max_pixels) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        frames = getattr(image, "n_frames", 1)
        notes = []
        if image.format == "MPO":
            notes.append("pictures behind the first (depth, gain or preview) dropped")
        elif frames > 1:
            raise PictureError(f"{frames} frames or pages: only still pictures are read; save one of them")
        if _deep(image, data):
            notes.append("16 bits became 8")
        extras = _extras(image, kind, data, notes)
        grey = image.mode in _GREY
        ImageOps.exif_transpose(image, in_place=True)  # a copy of a large picture is large
        alpha = None
        if image.mode in _ALPHA or "transparency" in image.info:
            cutout = np.asarray(image.convert("RGBA"))
            rgb, alpha = np.ascontiguousarray(cutout[..., :3]), np.ascontiguousarray(cutout[..., 3])
        elif image.mode in ("CMYK", "LAB"):
            rgb = np.asarray(_from_ink(image, extras.pop("icc_profile", None), notes))
        else:
            rgb = np.asarray(image) if image.mode == "RGB" else to_rgb(image)
        return PictureFile(rgb, alpha, grey, kind, extras, "; ".join(notes))


def write_picture_file(path: Path, rgb: Picture, like: PictureFile) -> None:
    """Write pixels as the file that they were made of: its format, its metadata, its alpha.

    Args:
        path: of any name.
        rgb: uint8 [h, w, 3]; the alpha channel is resized to it.
        like: the file.

    Raises:
        PictureError: the format cannot hold the picture.
    """
    image = Image.fromarray(rgb)
    if like.grey:
        image = image.convert("L")
    if like.alpha is not None:
        alpha = Image.fromarray(like.alpha)
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BILINEAR)
        image.putalpha(alpha)
    try:
        image.save(path, format=like.format, **like.extras)
    except (ValueError, SyntaxError) as error:
        raise PictureError(f"cannot be written as {like.format}: {error}") from error


def count_pixels(path: Path) -> int:
    """Pixels of a picture by its header; 0 where it has none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # reading tells what is too large
            with Image.open(path, formats=FORMATS) as image:
                return image.width * image.height
    except Exception:  # whatever is wrong with the file is told by reading it
        return 0


def _deep(image: Image.Image, data: bytes) -> bool:
    """Whether a channel has more than 8 bits."""
    if image.format == "PNG":
        return data[24] > 8
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(258, (1,))) > 8)  # type: ignore[attr-defined]
    netpbm = _NETPBM.match(data)
    return netpbm is not None and int(netpbm[1]) > 255


def _extras(image: Image.Image, kind: str, data: bytes, notes: list[str]) -> dict[str, Any]:
    """Pillow's options for saving a picture of this kind with what goes with it."""
    info = image.info
    extras: dict[str, Any] = {
        name: info[name] for name in ("icc_profile", "dpi", "comment") if info.get(name)
    }
    if isinstance(info.get("xmp"), bytes):
        extras["xmp"] = upright_xmp(info["xmp"])
    if _PNG_EXIF_TEXT in info:
        extras["exif"] = image.getexif().tobytes()
    if info.get("exif"):
        extras["exif"] = info["exif"]
    if "exif" in extras:
        extras["exif"] = upright_exif(extras["exif"])
    if kind == "JPEG":
        extras |= {"quality": 95, "subsampling": 0}
        if _IPTC in info.get("photoshop", {}):
            notes.append("IPTC dropped")
        for name in ("exif", "xmp", "comment"):
            if len(extras.get(name, b"")) > _JPEG_SEGMENT:
                del extras[name]
                notes.append(f"{name} dropped: longer than Pillow can write")
    elif kind == "PNG":
        extras["pnginfo"] = _png_info(image, data)
    elif kind == "WEBP":
        extras |= {"quality": 95, "lossless": data[12:16] == b"VP8L" or b"VP8L" in data[30:], "exact": True}
    elif kind == "TIFF":
        described = _described(image.getexif())
        # Pillow writes EXIF's own directories without compression only
        plain = any(tag in described for tag in _TIFF_DIRECTORIES)
        extras |= {"compression": None if plain else "tiff_lzw", "exif": described}
    return extras


def upright_exif(exif: bytes) -> bytes:
    """EXIF whose orientation is upright, and without a thumbnail; all else stays as it is, byte by byte."""
    start = len(_EXIF) if exif.startswith(_EXIF) else 0
    changed = bytearray(exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    try:
        if order is None:
            return exif
        [first] = struct.unpack_from(f"{order}I", exif, start + 4)
        [count] = struct.unpack_from(f"{order}H", exif, start + first)
        place = start + first + 2
        for entry in range(place, place + 12 * count, 12):
            if struct.unpack_from(f"{order}H", exif, entry) == (_ORIENTATION,):
                struct.pack_into(f"{order}HIHH", changed, entry + 2, 3, 1, _UPRIGHT, 0)
        struct.pack_into(f"{order}I", changed, place + 12 * count, 0)  # where the thumbnail's tags were
    except struct.error:  # shorter than it says; nobody reads an orientation from it
        return exif
    return bytes(changed)


def upright_xmp(xmp: bytes) -> bytes:
    """XMP whose orientation, where it has one, is upright."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _png_info(image: Image.Image, data: bytes) -> PngInfo:
    """The colour space and the texts of a PNG; Pillow writes no sRGB beside a colour profile."""
    kept = PngInfo()
    for name, content in _png_chunks(data):
        if name in _PNG_COLOURS:
            kept.add(name, content)
    for name, text in getattr(image, "text", {}).items():
        if name == _PNG_XMP:
            kept.add_itxt(name, upright_xmp(text.encode()).decode())
        elif name != _PNG_EXIF_TEXT:
            kept.add_text(name, text)
    return kept


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk before the pixels of a PNG that Pillow has read."""
    place = 8
    while (name := data[place + 4 : place + 8]) not in (b"IDAT", b""):
        [length] = struct.unpack_from(">I", data, place)
        yield name, data[place + 8 : place + 8 + length]
        place += length + 12


def _described(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for tag in _TIFF_DIRECTORIES:
        if tag in exif:
            kept.get_ifd(tag).update(exif.get_ifd(tag))
            kept[tag] = 0  # Pillow writes the directories of the tags that are there
    if isinstance(kept.get(700), bytes):
        kept[700] = upright_xmp(kept[700])
    return kept


def _from_ink(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """CMYK or LAB as sRGB."""
    if image.mode == "CMYK" and profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            made = None
        if made is not None:
            notes.append("CMYK became sRGB by its colour profile")
            return made
    notes.append(f"{image.mode} became RGB without a colour profile")
    return image.convert("RGB")

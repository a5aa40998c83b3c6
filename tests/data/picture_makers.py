"""Pictures that the data tests share."""

import struct
import zlib

import numpy as np

from cfpp.data.pictures import Picture


def colours(side: int = 40) -> Picture:
    """Smooth, unlike in rows, columns and channels."""
    y, x = np.mgrid[0:side, 0:side] * (255.0 / (side - 1))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises 8-bit RGB pixels and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

"""ONNX files of a few hundred bytes, encoded by hand: protobuf is tags and lengths."""

from collections.abc import Sequence


def mean_colour(shape: Sequence[int | str]) -> bytes:
    """A network that gives the mean of each channel, [n, 3]: GlobalAveragePool, then Flatten.

    Args:
        shape: of its float32 input; a string is a dimension of any length.
    """
    nodes = [("GlobalAveragePool", "picture", "pooled"), ("Flatten", "pooled", "colour")]
    graph = b"".join(
        _field(1, _field(1, i.encode()) + _field(2, o.encode()) + _field(4, kind.encode()))
        for kind, i, o in nodes
    )
    graph += _field(2, b"tiny")
    graph += _field(11, _tensor("picture", shape))
    graph += _field(12, _tensor("colour", (shape[0], 3)))
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _tensor(name: str, shape: Sequence[int | str]) -> bytes:
    dimensions = b"".join(
        _field(1, _number(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in shape
    )
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, 1) + _field(2, dimensions)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

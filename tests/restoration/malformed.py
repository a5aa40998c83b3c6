"""Requests that no server of faces should answer, drawn from a seed: fuzzed pictures, bombs, wrong JSON."""

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

JSON = "application/json"
SIDE = 6


@dataclass(frozen=True)
class Request:
    """A body and its headers; `name` is for the reader of a failure."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


def malformed(seed: int, count: int) -> Iterator[Request]:
    """`count` requests, every kind in turn, each time with other draws."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield kind(draw)


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 50,000 x 50,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _faces(draw: np.random.Generator, *shape: int) -> Any:
    return draw.integers(0, 256, shape or (1, SIDE, SIDE, 3)).tolist()


def _json(name: str, request: Any, **more: Any) -> Request:
    return Request(name, json.dumps({"inputs": request} | more).encode())


def _pick(draw: np.random.Generator, choices: list[Any]) -> Any:
    return choices[draw.integers(len(choices))]


def _fuzzed(draw: np.random.Generator) -> bytes:
    """A picture with a few bytes turned, or cut short."""
    encoded = cv2.imencode(_pick(draw, [".png", ".jpg"]), np.uint8(_faces(draw, 16, 16, 3)))[1].tobytes()
    if draw.random() < 0.3:
        return encoded[: draw.integers(1, len(encoded))]
    spoilt = np.frombuffer(encoded, np.uint8).copy()
    spoilt[draw.integers(0, len(spoilt), 5)] ^= np.uint8(draw.integers(1, 256))
    return spoilt.tobytes()


def _picture_as_body(draw: np.random.Generator) -> Request:
    kind = _pick(draw, ["image/png", "image/jpeg", "application/octet-stream", JSON, "text/csv"])
    return Request("picture as body", _fuzzed(draw), {"Content-Type": kind})


def _picture_in_json(draw: np.random.Generator) -> Request:
    text = base64.b64encode(_fuzzed(draw)).decode()
    return _json("picture in JSON", _pick(draw, [text, [text], [{"b64": text}], {"b64": text}, [[text]]]))


def _bomb(draw: np.random.Generator) -> Request:
    if draw.random() < 0.5:
        return Request("bomb", bomb(), {"Content-Type": _pick(draw, ["image/png", JSON])})
    return _json("bomb in JSON", [base64.b64encode(bomb()).decode()])


def _compressed(draw: np.random.Generator) -> Request:
    plain = _pick(draw, [json.dumps({"inputs": _faces(draw)}).encode(), bytes(50_000_000)])
    way, pack = _pick(draw, [("gzip", gzip.compress), ("deflate", zlib.compress)])
    return Request(way, pack(plain), {"Content-Type": JSON, "Content-Encoding": way})


def _spoilt_json(draw: np.random.Generator) -> Request:
    good = json.dumps({"inputs": _faces(draw), "params": {"w": 0.5}}).encode()
    at = int(draw.integers(0, len(good)))
    other = _pick(draw, [b"\xff", b"\x00", b"\xc3\x28", b"}", b"{", b"'", b"NaN,", b"//"])
    return _pick(
        draw,
        [
            Request("truncated", good[:at]),
            Request("inserted bytes", good[:at] + other + good[at:]),
            Request("other encoding", good.decode().encode(_pick(draw, ["utf-16", "utf-32", "utf-8-sig"]))),
            Request("twice", good + good),
        ],
    )


def _no_request(draw: np.random.Generator) -> Request:
    face = _faces(draw)
    texts = ["", " ", "null", "true", "0", "[]", "{}", '"inputs"', "<inputs/>", "inputs=1", "{inputs: []}"]
    objects = [
        {"params": {"w": 1}},
        {"inputs": face, "instances": face},
        {"inputs": face, "signature_name": "x"},
        {"inputs": face, "W": 0.5},
        {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
        {"dataframe_records": [{"a": 1}]},
        {"messages": [{"role": "user", "content": "restore"}]},
        {"prompt": "restore"},
        {"input": face},
        {"Inputs": face},
        [{"inputs": face}],
    ]
    text = _pick(draw, texts + [json.dumps(found) for found in objects])
    return Request("no request", text.encode())


def _wrong_value(draw: np.random.Generator) -> Request:
    face = _faces(draw)
    value = _pick(draw, [0.5, 7.0, True, None, "7", -1, 256, 2**63, 10**400, [1], {}, float("nan"), 1e300])
    face[0][draw.integers(SIDE)][draw.integers(SIDE)][draw.integers(3)] = value
    return _json(f"value {value!r:.20}", face)


def _wrong_numbers(draw: np.random.Generator) -> Request:
    pixels = np.array(_faces(draw))
    wrong = _pick(draw, [pixels / 255, pixels.astype(float), pixels > 128, pixels.astype(str), pixels - 300])
    return _json(f"all {wrong.dtype}", wrong.tolist())


def _wrong_shape(draw: np.random.Generator) -> Request:
    shapes = [(3,), (SIDE, SIDE), (SIDE, SIDE, 3), (1, 2, SIDE, SIDE, 3), (1, 1, 1, SIDE, SIDE, 3)]
    shapes += [(1, SIDE, SIDE, channels) for channels in (0, 1, 2, 4)] + [(1, 3, SIDE, SIDE)]
    shapes += [(1, SIDE, SIDE + 1, 3), (2, 1, 64, 3), (1, 0, 0, 3), (1, SIDE, 0, 3), (0,), (1, 0)]
    shape = _pick(draw, shapes)
    return _json(f"shape {shape}", _faces(draw, *shape))


def _ragged(draw: np.random.Generator) -> Request:
    face = _faces(draw, 2, SIDE, SIDE, 3)
    place = _pick(draw, [face, face[0], face[1][2], face[0][3][1]])
    place.append(_pick(draw, [place[0], [], [0], 7]) if place is not face[0][3][1] else 7)
    place[-1] = place[-1] if isinstance(place[-1], int) else list(place[-1])[:-1]
    return _json("ragged", face)


def _too_much(draw: np.random.Generator) -> Request:
    many = int(draw.integers(1025, 3000))
    row = "[" + ",".join(["[1,2,3]"] * 2049) + "]"
    texts: dict[str, Callable[[], str]] = {
        "too many": lambda: f'{{"inputs": [{", ".join(["[[[1, 2, 3]]]"] * many)}]}}',
        "too large": lambda: '{"inputs": [[' + ",".join([row] * 2049) + "]]}",
        "too long": lambda: '{"inputs": [' + " " * 2**27 + "]}",
        "strings": lambda: json.dumps({"inputs": ["ab"] * many * 100}),
        "objects": lambda: json.dumps({"inputs": [{}] * many * 100}),
        "lists": lambda: '{"inputs": [' + "[]," * 4_000_000 + "[]]}",
        "deep": lambda: '{"inputs": ' + "[" * many * 30 + "]" * many * 30 + "}",
        "digits": lambda: '{"inputs": ' + "9" * many * 5 + "}",
    }
    name = _pick(draw, list(texts))
    return Request(name, texts[name]().encode())


def _wrong_params(draw: np.random.Generator) -> Request:
    wrong = {
        "w": [-0.001, 1.001, float("nan"), float("inf"), "0.5", True, None, [0.5], {"v": 1}, 10**400],
        "aligned": [0, 1, "true", None, [], 0.0, False],  # false: there is no detector
        "batch_size": [0, -1, 65, 1.5, 8.0, "8", True, None, 10**30, [8]],
    }
    name = _pick(draw, [*wrong, "unknown", "no object"])
    if name == "unknown":
        params = {_pick(draw, ["W", "width", "", "batchsize", "__class__", "\ud800"]): 1}
    elif name == "no object":
        params = _pick(draw, [[], [["w", 1]], "w", 1, True, 0.5])
    else:
        params = {name: _pick(draw, wrong[name])}
    return _json(f"params {params!r:.40}", _faces(draw), params=params)


def _wrong_kind(draw: np.random.Generator) -> Request:
    good = json.dumps({"inputs": _faces(draw)}).encode()
    kinds = ["text/csv", "text/plain", "application/vnd.apache.parquet", "application/x-npy", "a", ";;", "é"]
    kinds += ["multipart/form-data; boundary=x", f"{JSON}; charset=latin-1", f"{JSON}; format=pandas-split"]
    if draw.random() < 0.15:
        return Request("no content type", good, {})
    kind = _pick(draw, kinds)
    return Request(f"content type {kind}", good, {"Content-Type": kind})


KINDS: list[Callable[[np.random.Generator], Request]] = [
    _picture_as_body,
    _picture_in_json,
    _bomb,
    _compressed,
    _spoilt_json,
    _no_request,
    _wrong_value,
    _wrong_numbers,
    _wrong_shape,
    _ragged,
    _too_much,
    _wrong_params,
    _wrong_kind,
]

"""The strict reading of a request: what is right comes through exactly, what is not is refused by name."""

import json
from typing import Any

import numpy as np
import pytest

from cfpp.restoration.request import MAX_BATCH, MAX_BODY, MAX_PIXELS, Intake, RequestError, Settings

JSON = "application/json"
FACES = Intake(size=8, pairs=False, photographs=False)
PAIRS = Intake(size=8, pairs=True, photographs=False)
PHOTOGRAPHS = Intake(size=8, pairs=False, photographs=True)
BYTE = np.dtype(np.uint8)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def body(**request: Any) -> bytes:
    return json.dumps(request).encode()


@pytest.mark.parametrize(
    ("intake", "shape", "params"),
    [
        (FACES, (2, 5, 5, 3), {}),
        (PAIRS, (3, 2, 4, 4, 3), {"w": 1}),
        (PHOTOGRAPHS, (1, 4, 7, 3), {"aligned": False, "batch_size": MAX_BATCH}),
    ],
)
def test_what_is_right_comes_through_exactly(
    intake: Intake, shape: tuple[int, ...], params: dict[str, Any]
) -> None:
    pictures = draw(*shape)
    for key in ("inputs", "instances"):
        for written in (json.dumps, lambda request: json.dumps(request, indent=1)):
            request = written({key: pictures.tolist(), "params": params}).encode()
            found, given = intake.read(request, "Application/JSON; charset=UTF-8")
            np.testing.assert_array_equal(found, pictures)
            assert found.dtype == np.uint8
            assert given == params
    assert intake.read(body(inputs=pictures.tolist(), params=params), JSON)[1] == params


def test_params_keep_their_defaults_and_none_is_cast_or_dropped() -> None:
    assert Settings.of(None) == Settings.of({}) == Settings(w=0.0, aligned=True, batch_size=8)
    assert Settings.of({"w": 0.25, "aligned": False}) == Settings(0.25, False, 8)
    wrong: list[tuple[Any, str]] = [
        ({"w": 1.01}, "params.w: must be a number from 0 to 1; found 1.01"),
        ({"w": float("nan")}, "params.w"),
        ({"w": True}, "params.w"),
        ({"w": "0.5"}, "params.w"),
        ({"w": None}, "params.w"),
        ({"aligned": 0}, "params.aligned: must be true or false; found 0"),
        ({"batch_size": 0}, f"params.batch_size: must be a whole number from 1 to {MAX_BATCH}; found 0"),
        ({"batch_size": MAX_BATCH + 1}, "params.batch_size"),
        ({"batch_size": 2.0}, "params.batch_size"),
        ({"batch_size": True}, "params.batch_size"),
        ({"width": 1}, "params: 'width' is none of w, aligned, batch_size"),
        ([1], "params: must be an object of w, aligned, batch_size; found "),
    ]
    for given, message in wrong:
        with pytest.raises(RequestError) as refused:
            Settings.of(given)
        assert str(refused.value).startswith(message)


def test_wrong_pictures_are_refused_with_what_was_expected() -> None:
    face = draw(1, 4, 4, 3).tolist()
    wide = draw(1, 4, 6, 3).tolist()
    wrong: list[tuple[Any, str]] = [
        ("iVBORw0KGgo=", "found 'iVBORw0KGgo=' at depth 0"),
        (["iVBORw0KGgo="], "found 'iVBORw0KGgo=' at depth 1"),
        (None, "found None at depth 0"),
        ({}, "found {} at depth 0"),
        (face[0], r"at depth 3"),
        ([face], "whole numbers from 0 to 255; found \\["),
        ([], r"expected aligned faces, uint8 \[B, H, H, 3\] RGB; found uint8 \[0, 0, 0, 0\]"),
        ([[]], r"found uint8 \[1, 0, 0, 0\]"),
        (draw(1, 4, 4, 4).tolist(), r"found uint8 \[1, 4, 4, 4\]"),
        (wide, "aligned faces are square; photographs need params.aligned false"),
        (face + draw(1, 5, 5, 3).tolist(), "lists of 4 and of 5 at depth 1"),
    ]
    for value in (0.5, 1.0, True, None, "7", -1, 256, 10**40, float("nan"), float("inf")):
        spoilt = draw(1, 4, 4, 3).tolist()
        spoilt[0][2][1][0] = value
        wrong.append((spoilt, "expected whole numbers from 0 to 255; found "))
    for pictures, message in wrong:
        with pytest.raises(RequestError, match=message) as refused:
            FACES.read(body(inputs=pictures), JSON)
        assert refused.value.status == 400
    for shape in ((1, 4, 4, 3), (1, 3, 4, 4, 3), (1, 2, 4, 5, 3)):
        with pytest.raises(RequestError, match=r"uint8 \[B, 2, H, H, 3\] RGB"):
            PAIRS.check(BYTE, shape, Settings())
    with pytest.raises(RequestError, match="found float32"):
        FACES.check(np.dtype(np.float32), (1, 4, 4, 3), Settings())
    with pytest.raises(RequestError, match="found object"):  # ragged, which MLflow's schema lets pass
        FACES.check(np.dtype(object), (2,), Settings())
    for shape in ((0, 4, 4, 3), (1, 0, 0, 3)):
        with pytest.raises(RequestError, match="one picture or more, each with pixels"):
            FACES.check(BYTE, shape, Settings())


def test_photographs_need_a_detector_and_a_prior() -> None:
    request = body(inputs=draw(1, 4, 6, 3).tolist(), params={"aligned": False})
    with pytest.raises(RequestError, match="registered without a face detector"):
        FACES.read(request, JSON)
    with pytest.raises(RequestError, match="another prior restores them first"):
        PAIRS.read(request, JSON)
    assert PHOTOGRAPHS.read(request, JSON)[0].shape == (1, 4, 6, 3)


def test_the_limit_counts_what_the_restorer_will_hold() -> None:
    model = Intake(size=512, pairs=False, photographs=True)
    fit = MAX_PIXELS // 512**2
    model.check(BYTE, (fit, 512, 512, 3), Settings())
    model.check(BYTE, (fit, 1, 1, 3), Settings())  # grows to 512
    model.check(BYTE, (1, 2048, 2048, 3), Settings(aligned=False))
    for shape in ((fit + 1, 512, 512, 3), (fit + 1, 1, 1, 3), (1, 2049, 2049, 3), (10**7, 10**7, 10**7, 3)):
        with pytest.raises(RequestError, match=f"are more than {MAX_PIXELS}.*send fewer") as refused:
            model.check(BYTE, shape, Settings())
        assert refused.value.status == 413
    pairs = Intake(size=512, pairs=True, photographs=False)
    pairs.check(BYTE, (fit // 2, 2, 512, 512, 3), Settings())
    with pytest.raises(RequestError, match="are more than"):
        pairs.check(BYTE, (fit // 2 + 1, 2, 512, 512, 3), Settings())


def test_what_is_no_request_is_refused_before_it_costs_memory() -> None:
    face = json.dumps(draw(1, 4, 4, 3).tolist())
    wrong: list[tuple[bytes, str]] = [
        (b"", r"not JSON \(Expecting value"),
        (b"[1]", r"found \[1\]; expected {\"inputs\": aligned faces"),
        (b'"inputs"', "found 'inputs'"),
        (b'{"params": {}}', "inputs are missing"),
        (f'{{"inputs": {face}, "instances": {face}}}'.encode(), "or there twice"),
        (f'{{"inputs": {face}, "inputs": {face}}}'.encode(), "'inputs' is there twice"),
        (f'{{"inputs": {face}, "params": {{"w": 0, "w": 1}}}}'.encode(), "'w' is there twice"),
        (f'{{"inputs": {face}, "w": 1}}'.encode(), "'w' is unknown"),
        (f'{{"inputs": {face}'.encode(), "not JSON"),
        (f'{{"inputs": {face}}}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"inputs": []}', "BOM"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "lists within lists without end"),
        (b'{"inputs": [' + b"{}," * 1000 + b"{}]}", "too many objects, strings or lists"),
        (b'{"inputs": [' + b'"",' * 1000 + b'""]}', "too many objects"),
        (b'{"inputs": [' + b"[]," * 3 * MAX_PIXELS + b"[]]}", "too many objects"),
    ]
    for request, message in wrong:
        with pytest.raises(RequestError, match=message) as refused:
            FACES.read(request, JSON)
        assert (refused.value.status, len(str(refused.value)) < 400) == (400, True)
    with pytest.raises(RequestError, match=f"more than the {MAX_BODY}") as refused:
        FACES.read(b" " * (MAX_BODY + 1), JSON)
    assert refused.value.status == 413
    for kind in (None, "", "text/csv", "image/png", f"{JSON}; charset=latin-1"):
        with pytest.raises(RequestError, match="Content-Type must be application/json") as refused:
            FACES.read(f'{{"inputs": {face}}}'.encode(), kind)
        assert refused.value.status == 415

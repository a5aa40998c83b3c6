"""What a served restorer takes: its params, its limits, and the strict reading of a request.

MLflow casts before a model sees anything: 0.5 becomes 0, "12" becomes 12, true becomes 1, and a param that is
spelt wrong is dropped. Here nothing is cast. What is not exactly right is refused, with what was expected.
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from cfpp.data.pictures import Picture
from cfpp.errors import MendableError

MAX_PIXELS = 2048 * 2048
"""Of all pictures of one request; one smaller than the model's faces counts as one of their size."""
MAX_BATCH = 64
MAX_BODY = 24 * MAX_PIXELS  # bytes; json.dumps takes 17 for a pixel, and some for the brackets of rows

_KEYS = ("inputs", "instances")  # MLflow's two names for it
_MANY_QUOTES = 64  # the names of a request need 20


class RequestError(MendableError, ValueError):
    """A request that is refused; the message says what was expected.

    Attributes:
        status: of HTTP, 400 to 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Settings:
    """A request's params.

    Args:
        w: 0 (I_out, as trained) to 1 (I_F); see `cfpp.restoration.restorer`.
        aligned: the pictures are aligned faces; otherwise photographs, whose faces are found and put back.
        batch_size: faces per forward pass, 1 to MAX_BATCH.

    Raises:
        RequestError: one has another type or is out of range.
    """

    w: float = 0.0
    aligned: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        if type(self.w) not in (int, float) or not 0 <= self.w <= 1:  # true is no number, NaN in no range
            raise RequestError(f"params.w: must be a number from 0 to 1; found {_short(self.w)}")
        if type(self.aligned) is not bool:
            raise RequestError(f"params.aligned: must be true or false; found {_short(self.aligned)}")
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= MAX_BATCH:
            raise RequestError(
                f"params.batch_size: must be a whole number from 1 to {MAX_BATCH}; "
                f"found {_short(self.batch_size)}"
            )

    @classmethod
    def of(cls, given: object) -> "Settings":
        """From a request's params; those that are not given keep their defaults.

        Raises:
            RequestError: no mapping, an unknown name, or as the class.
        """
        known = [field.name for field in fields(cls)]
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise RequestError(f"params: must be an object of {', '.join(known)}; found {_short(given)}")
        unknown = [name for name in given if name not in known]
        if unknown:
            raise RequestError(f"params: {_short(unknown[0])} is none of {', '.join(known)}")
        return cls(**given)


@dataclass(frozen=True)
class Intake:
    """What one restorer takes.

    Args:
        size: side of the model's faces, pixels.
        pairs: it takes I_F and I_G of another prior, not the faces themselves.
        photographs: it has a face detector, so that params.aligned may be false.
    """

    size: int
    pairs: bool
    photographs: bool

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...], settings: Settings) -> None:
        """Refuse what is not uint8 [B, H, H, 3] ([B, 2, H, H, 3] of pairs, [B, H, W, 3] of photographs).

        Raises:
            RequestError: another type or shape, empty, beyond MAX_PIXELS, or photographs that this restorer
                cannot take.
        """
        if not settings.aligned:
            self._check_photographs()
        found = f"found {dtype} {list(shape)}"
        expected = f"expected {self._wanted(settings)}; {found}"
        if dtype != np.uint8 or len(shape) != (5 if self.pairs else 4) or shape[-1] != 3:
            raise RequestError(expected)
        if self.pairs and shape[1] != 2:
            raise RequestError(expected)
        height, width = shape[-3:-1]
        if 0 in shape:
            raise RequestError(f"expected one picture or more, each with pixels; {found}")
        if settings.aligned and height != width:
            raise RequestError(f"{expected}: aligned faces are square; photographs need params.aligned false")
        pixels = int(np.prod(shape[:-3], dtype=object)) * max(height * width, self.size**2)
        if pixels > MAX_PIXELS:
            raise RequestError(
                f"{pixels} pixels in one request are more than {MAX_PIXELS}; {found}, where a picture under "
                f"{self.size} x {self.size} counts as one of that size: send fewer, or smaller ones",
                status=413,
            )

    def read(self, body: bytes, content_type: str | None) -> tuple[Picture, dict[str, Any]]:
        """Pictures and params of a request; the params are as they were given, and right.

        Raises:
            RequestError: anything that is not as `check` and `Settings` want it.
        """
        kind, _, more = (content_type or "none").lower().partition(";")
        if kind.strip() != "application/json" or more.strip() not in ("", "charset=utf-8"):
            raise RequestError(
                f"Content-Type must be application/json, in UTF-8; found {_short(content_type)}", status=415
            )
        if len(body) > MAX_BODY:
            raise RequestError(f"{len(body)} bytes are more than the {MAX_BODY} of a request", status=413)
        request = self._parse(body)
        unknown = [key for key in request if key not in (*_KEYS, "params")]
        named = [key for key in _KEYS if key in request]
        if unknown or len(named) != 1:
            fault = f"{_short(unknown[0])} is unknown" if unknown else "inputs are missing, or there twice"
            raise RequestError(f"{fault}; expected {self._form}")
        settings = Settings.of(request.get("params"))
        if not settings.aligned:
            self._check_photographs()
        pictures = self._pictures(request.pop(named[0]), settings)
        return pictures, request.get("params") or {}

    @property
    def _form(self) -> str:
        return f'{{"inputs": {self._wanted(Settings())} as nested lists, "params": {{...}}}}'

    def _wanted(self, settings: Settings) -> str:
        if self.pairs:
            return "I_F and I_G of aligned faces, uint8 [B, 2, H, H, 3] RGB"
        if settings.aligned:
            return "aligned faces, uint8 [B, H, H, 3] RGB"
        return "photographs of one size, uint8 [B, H, W, 3] RGB"

    def _check_photographs(self) -> None:
        if self.pairs:
            raise RequestError(
                "params.aligned: this model takes aligned faces only: another prior restores them first"
            )
        if not self.photographs:
            raise RequestError(
                "params.aligned: this model takes aligned faces only: it was registered without a face "
                "detector (weights.root)"
            )

    def _parse(self, body: bytes) -> dict[str, Any]:
        # What is made of objects, strings or empty lists takes 30 times its bytes of memory once parsed.
        if body.count(b"{") > 2 or body.count(b'"') > _MANY_QUOTES or body.count(b"[") > 3 * MAX_PIXELS:
            raise RequestError(f"too many objects, strings or lists; expected {self._form}")
        try:
            request = json.loads(body.decode(), object_pairs_hook=_unique)
        except RequestError:
            raise
        except RecursionError:
            raise RequestError(f"lists within lists without end; expected {self._form}") from None
        except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
            raise RequestError(f"not JSON ({_fault(error)}); expected {self._form}") from None
        if not isinstance(request, dict):
            raise RequestError(f"found {_short(request)}; expected {self._form}")
        return request

    def _pictures(self, nested: Any, settings: Settings) -> Picture:
        """uint8 of nested lists; every level is looked at whole, by loops that run in C."""
        shape: list[int] = []
        level = [nested]
        for _ in range(5 if self.pairs else 4):
            if not set(map(type, level)) <= {list}:
                wrong = next(item for item in level if type(item) is not list)
                raise RequestError(
                    f"inputs: expected {self._wanted(settings)} as nested lists; found {_short(wrong)} at "
                    f"depth {len(shape)}"
                )
            lengths = set(map(len, level))
            if len(lengths) > 1:
                raise RequestError(
                    f"inputs: expected {self._wanted(settings)}, all of one size; found lists of "
                    f"{min(lengths)} and of {max(lengths)} at depth {len(shape)}"
                )
            shape.append(max(lengths, default=0))
            level = list(chain.from_iterable(level))
        if not set(map(type, level)) <= {int}:
            wrong = next(value for value in level if type(value) is not int)
            raise RequestError(f"inputs: expected whole numbers from 0 to 255; found {_short(wrong)}")
        try:
            values = np.frombuffer(bytearray(level), np.uint8)
        except (ValueError, OverflowError):
            wrong = min(level) if min(level) < 0 else max(level)
            raise RequestError(
                f"inputs: expected whole numbers from 0 to 255; found {_short(wrong)}"
            ) from None
        self.check(values.dtype, tuple(shape), settings)
        return values.reshape(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{_short(twice)} is there twice")
    return found


def _short(value: object) -> str:
    """A few words of the value: a refusal is not as long as what it refuses."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fault(error: ValueError) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).partition(";")[0]

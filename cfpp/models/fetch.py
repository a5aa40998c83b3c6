"""Fetching a file from elsewhere: whole and with the right sha256, or not at all."""

import hashlib
import http.client
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from cfpp.errors import MendableError
from cfpp.files import replacing
from cfpp.models.external import ExternalFile

TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


class FetchError(MendableError):
    """A file could not be fetched; the message names it, its address and the reason."""


def fetch(file: ExternalFile, folder: Path) -> Path:
    """Download `file` into `folder`, with a bar on a terminal; what was there under its name is replaced.

    The bytes go to a file that ends in .tmp; only when they are complete and their sha256 is right do they
    get the name, in one step. Otherwise nothing is left and what was there stays.

    Raises:
        FetchError: no address is known, the network or the disk failed, or the contents are others.
    """
    if not file.url:
        raise FetchError(f"{file.name}: no public address is known; place it by hand, see docs/weights.md")
    path, url = folder / file.name, address(file)
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
            replacing(path) as partial,
            partial.open("wb") as out,
        ):
            _copy(answer, out, file, url)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise FetchError(f"{file.name}: {url}: {error or type(error).__name__}") from error
    return path


def address(file: ExternalFile) -> str:
    """The address that the file's `url` stands for."""
    publisher, _, name = file.url.partition(":")
    if publisher != "torchvision":
        return file.url
    from torchvision.models import get_weight  # seconds to import

    return str(get_weight(name).url)


def _copy(answer: http.client.HTTPResponse, out: BinaryIO, file: ExternalFile, url: str) -> None:
    """The answer's bytes to `out`, counted and compared."""
    expected = int(answer.headers.get("Content-Length") or 0)
    digest, received = hashlib.sha256(), 0
    with tqdm(
        total=expected or file.size or None, desc=file.name, unit="B", unit_scale=True, disable=None
    ) as bar:
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if expected and received < expected:
        raise FetchError(f"{file.name}: {url}: cut short, {received} of {expected} bytes came")
    if digest.hexdigest() != file.sha256:
        raise FetchError(
            f"{file.name}: {url}: sha256 is {digest.hexdigest()}, expected {file.sha256}; not kept"
        )

"""Where data lies: local folders, or a prefix of an S3 bucket; the same few operations on both.

A place is a `Path` or an `S3Path`. What is written is there whole or not at all; what is read from S3 is
copied to the local disk first, for tars are read by offset. Credentials, region and endpoint come from the
environment or the node's role: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...
A server that does not answer is waited for, `PATIENCE` seconds at most.
"""

import atexit
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cfpp import files
from cfpp.errors import MendableError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on this machine
PATIENCE = 120.0  # seconds that a server may stay away
SCHEME = "s3://"
_CHUNK = 8 << 20  # bytes
_PASSING = re.compile(
    "NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|"
    r"HTTP status (429|5\d\d)|[Tt]imed? ?out|curlCode"
)


class StorageError(MendableError, OSError):
    """A place cannot be read or written; the message names it and says what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, order=True)
class S3Path:
    """An object, or the prefix of many, in a bucket: `key` is bucket/prefix/name."""

    key: str

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.key).name

    def __truediv__(self, name: str | Path) -> "S3Path":
        return S3Path(f"{self.key}/{PurePosixPath(name)}")

    def __str__(self) -> str:
        return SCHEME + self.key


Place = Path | S3Path


def place_of(uri: str | Place, base: Path | None = None) -> Place:
    """The absolute place that a setting names; a relative path is below `base`, or else the current folder.

    Raises:
        StorageError: a scheme other than s3, or no bucket.
    """
    if isinstance(uri, S3Path):
        return uri
    text = str(uri)
    if not text.startswith(SCHEME):
        if "://" in text:
            raise StorageError(f"{text}: expected a folder or {SCHEME}bucket/prefix")
        return (base or Path.cwd()).resolve() / text
    key = text.removeprefix(SCHEME).strip("/")
    if not key:
        raise StorageError(f"{text}: names no bucket; expected {SCHEME}bucket/prefix")
    return S3Path(key)


@contextmanager
def replacing(place: Place) -> Iterator[Path]:
    """A local path to write to, which becomes `place` in one step when the block ends without an error.

    Raises:
        StorageError: S3 does not take it.
    """
    if isinstance(place, Path):
        with files.replacing(place) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="cfpp-") as folder:
        partial = Path(folder, place.name)
        yield partial
        _patiently(place, lambda: _upload(partial, place))


@contextmanager
def reading(place: Place) -> Iterator[Path]:
    """A local path of the file's name to read from, good until the block ends.

    Raises:
        FileNotFoundError: there is no such object. A local path is not looked at.
        StorageError: S3 does not give it.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="cfpp-") as folder:
        path = Path(folder, place.name)
        _patiently(place, lambda: _download(place, path))
        yield path


def fetch(place: Place, sha256: str) -> Path:
    """A local path that stays: the place itself, or a copy under CFPP_CACHE (~/.cache/cfpp) by its content.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: its bytes are not those of `sha256`.
    """
    if isinstance(place, Path):
        return place
    from filelock import FileLock

    path = cache_folder() / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # the workers of one node want the same shards
        if not path.exists():
            with files.replacing(path) as partial:
                _patiently(place, lambda: _download(place, partial))
                if files.file_digest(partial) != sha256:
                    raise StorageError(f"{place}: its bytes are not those in the manifest; see cfpp verify")
    return path


def local_folder(place: Place) -> Path:
    """A small folder, such as a model's, on the local disk: itself, or a copy for the life of the process.

    Raises:
        FileNotFoundError: there is nothing at that place.
    """
    if isinstance(place, Path):
        return place
    names = names_under(place)
    if not names:
        raise FileNotFoundError(f"{place}: there is nothing")
    folder = Path(tempfile.mkdtemp(prefix="cfpp-")) / place.name
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    for name in names:
        copy(place / name, folder / name)
    return folder


def cache_folder() -> Path:
    """Where this machine keeps copies of what lies in S3."""
    return Path(os.environ.get("CFPP_CACHE") or Path.home() / ".cache" / "cfpp")


def read_bytes(place: Place) -> bytes:
    """The content of a file or object.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if isinstance(place, Path):
        return place.read_bytes()

    with reading(place) as path:
        return path.read_bytes()


def content_digest(place: Place) -> str:
    """sha256 of an input file, or "unreadable": it counts for what follows, and the worker says why.

    Raises:
        StorageError: S3 does not answer, or refuses; that says nothing of the file.
    """
    try:
        if isinstance(place, Path):
            return files.file_digest(place)
        return hashlib.sha256(read_bytes(place)).hexdigest()
    except StorageError:
        raise
    except OSError:
        return "unreadable"


def size_of(place: Place) -> int | None:
    """Bytes of a file or object; None when there is none."""
    if isinstance(place, Path):
        return place.stat().st_size if place.is_file() else None
    import pyarrow.fs

    info = _patiently(place, lambda: _s3().get_file_info(place.key))
    return int(info.size) if info.type == pyarrow.fs.FileType.File else None


def names_under(place: Place) -> list[str]:
    """Relative paths, with slashes, of every file or object at any depth; sorted. None at all is no error.

    Raises:
        StorageError: a folder cannot be listed.
    """
    if isinstance(place, Path):

        def stop(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise StorageError(f"{error.filename}: cannot be listed: {error.strerror}") from error

        paths = (Path(top, name) for top, _, names in os.walk(place, onerror=stop) for name in names)
        return sorted(path.relative_to(place).as_posix() for path in paths if path.is_file())
    import pyarrow.fs

    selector = pyarrow.fs.FileSelector(place.key, recursive=True, allow_not_found=True)
    found = _patiently(place, lambda: _s3().get_file_info(selector))
    return sorted(
        info.path.removeprefix(f"{place.key}/") for info in found if info.type == pyarrow.fs.FileType.File
    )


def remove(place: Place) -> None:
    """Remove a file or object; one that is not there is no error."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    elif size_of(place) is not None:
        _patiently(place, lambda: _s3().delete_file(place.key))


def move(source: Place, target: Place) -> None:
    """Give a file or object of the same storage another name; what had that name is replaced."""
    if isinstance(source, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    elif isinstance(source, S3Path) and isinstance(target, S3Path):
        _patiently(source, lambda: _s3().copy_file(source.key, target.key))
        remove(source)
    else:
        raise ValueError(f"{source} and {target} lie in different storages")


def copy(source: Place, target: Place) -> None:
    """Copy one file or object; `target` is there whole or not at all."""
    with reading(source) as path, replacing(target) as partial:
        shutil.copyfile(path, partial)


def check_writable(place: Place) -> None:
    """Write and remove a small file.

    Raises:
        StorageError: that is not allowed, or the server does not answer within seconds.
    """
    probe = place / f".cfpp-{uuid.uuid4().hex}"
    try:
        if isinstance(probe, Path):
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        else:
            target = probe
            with tempfile.NamedTemporaryFile(prefix="cfpp-") as file:
                _patiently(place, lambda: _upload(Path(file.name), target), patience=15.0)
            _patiently(place, lambda: _s3().delete_file(target.key))
    except StorageError as error:
        raise StorageError(f"storage.root: {error}") from error
    except OSError as error:
        why = error.strerror or error
        raise StorageError(f"storage.root: {place} cannot be written to: {why}") from error


def s3_filesystem() -> Any:
    """The `pyarrow.fs.S3FileSystem` of this environment for libraries that take one, patient in itself."""
    return _filesystem(*_settings(), attempts=12)


def _s3() -> Any:
    return _filesystem(*_settings(), attempts=3)


def _settings() -> tuple[str | None, str | None]:
    """Endpoint and region, as the environment says."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


@lru_cache(maxsize=4)
def _filesystem(endpoint: str | None, region: str | None, attempts: int) -> Any:
    import pyarrow.fs

    address = {}
    if endpoint:
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise StorageError(
                f"AWS_ENDPOINT_URL: expected http://HOST:PORT or https://..., found {endpoint!r}"
            )
        address = {"scheme": url.scheme, "endpoint_override": url.netloc}
    retries = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
    return pyarrow.fs.S3FileSystem(region=region, retry_strategy=retries, **address)


def _upload(path: Path, place: S3Path) -> None:
    import pyarrow.fs

    # One call into Arrow: a stream that an interrupt closes becomes an object, as empty as it is.
    pyarrow.fs.copy_files(str(path), place.key, pyarrow.fs.LocalFileSystem(), _s3())


def _download(place: S3Path, path: Path) -> None:
    """Copy an object as it was at one moment: others may replace it between the requests that this takes."""
    version = None
    while version is None or version != _version(place):
        version = _version(place)
        with _s3().open_input_file(place.key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)


def _version(place: S3Path) -> Any:
    with _s3().open_input_stream(place.key) as stream:
        return stream.metadata()["ETag"]


def _patiently(place: Place, action: Callable[[], Result], patience: float | None = None) -> Result:
    """Do it, again and again while the server does not answer."""
    patience = PATIENCE if patience is None else patience
    deadline, pause = time.monotonic() + patience, 0.5
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise FileNotFoundError(f"{place}: there is no such object") from None
        except OSError as error:
            text = " ".join(str(error).split())
            if error.errno in LOCAL:
                raise
            if not _PASSING.search(text):
                raise StorageError(f"{place}: {_advice(text)}") from error
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{place}: no answer for {patience:.0f} s; is AWS_ENDPOINT_URL right? {text}"
                ) from error
            log.warning("%s: no answer, trying again in %.1f s: %s", place, pause, text[:200])
            time.sleep(pause)
            pause = min(2 * pause, 8.0)


def _advice(text: str) -> str:
    if re.search("NO_SUCH_BUCKET|bucket does not exist", text):
        return f"there is no such bucket; make it first ({text})"
    if re.search(
        "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|HTTP status 40[13]|No response body", text
    ):
        return f"access refused; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the node's role ({text})"
    return text

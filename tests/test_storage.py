"""The same operations on a folder and on a real S3 server: whole or not at all, and patient."""

import errno
import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cfpp import storage
from cfpp.data.folder import list_faces, load_face
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import encode_png
from cfpp.data.procedural import render
from cfpp.data.samples import SampleStore
from cfpp.data.shards import ShardError, write_shard
from cfpp.data.split import FaceRef
from cfpp.storage import Place, S3Path, StorageError, place_of
from cfpp.synthesis.faces import FaceSpec, FaceTask, FaceWorker
from cfpp.synthesis.shard_work import Made, Refused
from cfpp.synthesis.tars import TarTask
from tests.s3 import BUCKET, S3Server, s3_server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Path:
    """An empty prefix."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CFPP_CACHE", str(tmp_path / "cache"))
    place = place_of(f"s3://{BUCKET}/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}")
    assert isinstance(place, S3Path)
    return place


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return tmp_path / "store"
    found: Place = request.getfixturevalue("s3")
    return found


def put(place: Place, data: bytes) -> None:
    with storage.replacing(place) as path:
        path.write_bytes(data)


def test_what_is_written_is_read_listed_moved_and_removed(place: Place, tmp_path: Path) -> None:
    assert storage.names_under(place) == []
    assert storage.size_of(place / "a/b.bin") is None
    put(place / "a/b.bin", b"first")
    put(place / "a/b.bin", b"second one")
    put(place / "c.bin", b"")
    assert storage.names_under(place) == ["a/b.bin", "c.bin"]
    assert storage.size_of(place / "a/b.bin") == 10
    assert storage.size_of(place / "c.bin") == 0
    assert storage.size_of(place / "a") is None
    assert storage.read_bytes(place / "a/b.bin") == b"second one"
    with storage.reading(place / "a/b.bin") as path:
        assert (path.name, path.read_bytes()) == ("b.bin", b"second one")
    storage.move(place / "a/b.bin", place / "d/e.bin")
    storage.copy(place / "d/e.bin", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == b"second one"
    storage.remove(place / "c.bin")
    storage.remove(place / "c.bin")
    assert storage.names_under(place) == ["d/e.bin"]
    assert storage.content_digest(place / "d/e.bin") == hashlib.sha256(b"second one").hexdigest()
    assert storage.content_digest(place / "nothing") == "unreadable"


def test_a_failed_write_leaves_what_was_there(place: Place) -> None:
    put(place / "x", b"before")

    def fail() -> None:
        with storage.replacing(place / "x") as path:
            path.write_bytes(b"half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert storage.read_bytes(place / "x") == b"before"
    assert storage.names_under(place) == ["x"]


def test_the_longest_name_can_be_written_and_its_ending_is_told_until_then(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.tar"
    with storage.replacing(path) as partial:
        partial.write_bytes(b"whole")
        assert partial.name.endswith(".tar.tmp")  # cfpp verify --absent looks into these
        assert partial.parent == tmp_path
    assert path.read_bytes() == b"whole"
    put(tmp_path / (63 * "\U0001f923"), b"")  # 252 bytes
    assert len([*tmp_path.iterdir()]) == 2


def test_an_interrupt_leaves_the_old_object_or_the_new_one(s3: S3Path, tmp_path: Path) -> None:
    old, new = b"old" * 1000, b"new" * 1000
    put(s3 / "table", old)
    script = tmp_path / "write.py"
    script.write_text(
        """
import itertools, random, signal, sys
from cfpp import storage

place, draw = storage.place_of(sys.argv[1]), random.Random(0)
signal.signal(signal.SIGALRM, signal.default_int_handler)
storage.size_of(place)  # the client is there before the first interrupt
interrupted = 0
for turn in itertools.count():
    if interrupted == 80 or turn == 400:
        break
    data = (b"old", b"new")[turn % 2] * 1000
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-4, 8e-3))
        with storage.replacing(place) as path:
            path.write_bytes(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    found = storage.read_bytes(place)
    assert found in (b"old" * 1000, b"new" * 1000), f"{len(found)} bytes, turn {turn}"
assert interrupted > 30, interrupted
"""
    )
    subprocess.run([sys.executable, str(script), str(s3 / "table")], check=True, timeout=120)
    assert storage.read_bytes(s3 / "table") in (old, new)


def test_what_is_large_arrives_whole(s3: S3Path) -> None:
    data = bytes(range(256)) * (100 << 10)  # 25 MB: several parts
    put(s3 / "large", data)
    assert storage.read_bytes(s3 / "large") == data
    kept = storage.fetch(s3 / "large", hashlib.sha256(data).hexdigest())
    assert kept.read_bytes() == data
    storage.remove(s3 / "large")
    assert storage.fetch(s3 / "large", hashlib.sha256(data).hexdigest()) == kept  # by content, no second copy
    put(s3 / "other", b"other")
    with pytest.raises(StorageError, match="not those in the manifest"):
        storage.fetch(s3 / "other", hashlib.sha256(b"expected").hexdigest())
    with pytest.raises(FileNotFoundError, match="no such object"):
        storage.fetch(s3 / "missing", "0" * 64)


def test_an_object_that_is_replaced_meanwhile_is_read_as_one_or_the_other(s3: S3Path) -> None:
    versions = [bytes([number]) * (1000 + 500 * number) for number in range(60)]
    put(s3 / "x", versions[0])

    def write() -> None:
        for data in versions:
            put(s3 / "x", data)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert storage.read_bytes(s3 / "x") in versions
    writer.join()
    assert storage.read_bytes(s3 / "x") == versions[-1]


def test_shards_manifests_and_samples_are_the_same_in_both(s3: S3Path, tmp_path: Path) -> None:
    pictures = {f"k{i}": encode_png(render(0, i, 0, 64).picture) for i in range(4)}
    stores = []
    for root in (tmp_path / "here", s3):
        manifest = Manifest()
        for number in range(2):
            keys = sorted(pictures)[number * 2 : number * 2 + 2]
            members = [
                (k, {"hq.png": pictures[k], "meta.json": b'{"identity": "i", "source": "s"}'}) for k in keys
            ]
            file = write_shard(shard_path(root / "data/shards", "train", number), members)
            row = ShardRow("train", number, file.count, file.bytes, file.sha256, "in", "config", 0)
            manifest.put(row, [])
        manifest.save(root / "data/shards")
        loaded = Manifest.load(root / "data/shards")
        assert loaded == manifest
        assert loaded.holds(root / "data/shards", "train", 1, "in", "config")
        assert not loaded.holds(root / "data/shards", "train", 1, "in", "other")
        stores.append(SampleStore(root, "train", ["hq"]))
    here, there = stores
    assert here.items == there.items
    for index in range(len(here)):
        assert (here.pictures(index)["hq"] == there.pictures(index)["hq"]).all()
    storage.remove(shard_path(s3 / "data/shards", "train", 1))
    assert not Manifest.load(s3 / "data/shards").holds(s3 / "data/shards", "train", 1, "in", "config")


def test_faces_are_listed_and_read_from_a_bucket(s3: S3Path) -> None:
    face = render(0, 1, 0, 96).picture
    put(s3 / "people/one.png", encode_png(face))
    put(s3 / "two.png", encode_png(face[::-1].copy()))
    put(s3 / "notes.txt", b"x")
    listing = list_faces(s3)
    assert [item.source for item in listing.faces] == ["people/one.png", "two.png"]
    assert listing.ignored == ("notes.txt",)
    loaded = load_face(s3, "people/one.png", size=96, min_side=32, max_pixels=10**6)
    assert (loaded == face).all()


def test_a_server_that_is_away_for_a_while_is_waited_for(
    s3: S3Path, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    put(s3 / "x", b"1" * 1000)
    server.door.shut()
    threading.Timer(4.0, server.door.open).start()
    start = time.monotonic()
    put(s3 / "x", b"2" * 1000)
    assert time.monotonic() - start > 3.5
    assert storage.read_bytes(s3 / "x") == b"2" * 1000
    assert "no answer, trying again" in caplog.text


def test_a_server_that_stays_away_is_named(s3: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "PATIENCE", 1.0)
    with pytest.raises(StorageError, match=rf"{s3}/x: no answer for 1 s; is AWS_ENDPOINT_URL right"):
        storage.read_bytes(s3 / "x")
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"storage\.root: .*no answer for 15 s"):
        storage.check_writable(s3)
    assert time.monotonic() - start < 60


def test_wrong_credentials_a_missing_bucket_and_no_right_to_write_are_told_apart(
    s3: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=r"storage\.root: s3://nobody/x: there is no such bucket"):
        storage.check_writable(S3Path("nobody/x"))
    with (
        s3_server(tmp_path, {"INITIAL_NO_AUTH_ACTION_COUNT": "2"}) as strict,
        monkeypatch.context() as monkeypatch,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.environment["AWS_ENDPOINT_URL"])
        start = time.monotonic()
        with pytest.raises(StorageError, match=r"storage\.root: .*access refused; check AWS_ACCESS_KEY_ID"):
            storage.check_writable(s3)
        assert time.monotonic() - start < 15
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"storage\.root: .*cannot be written to"):
        storage.check_writable(tmp_path / "file")
    storage.check_writable(s3)
    storage.check_writable(tmp_path / "new/folder")


def test_what_is_wrong_with_the_server_is_no_fault_of_the_faces(
    s3: S3Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3 / "one.png", encode_png(render(0, 1, 0, 96).picture))
    spec = FaceSpec(str(s3), "", 96, 0, 32, 10**6)
    task = FaceTask("train", 0, "in", (FaceRef("one", "one", "one.png"), FaceRef("two", "two", "two.png")))
    made, refused = FaceWorker(spec).process(task)
    assert isinstance(made, Made)
    assert isinstance(refused, Refused)  # there is no such object
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    with pytest.raises(StorageError, match="no answer"):
        list(FaceWorker(spec).process(task))
    with pytest.raises(StorageError, match="no answer"):
        storage.content_digest(s3 / "one.png")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL: expected http"):
        storage.content_digest(s3 / "one.png")


def test_no_room_on_this_machine_is_no_fault_of_the_server(
    s3: S3Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3 / "x", b"1")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left") as error:
        storage.read_bytes(s3 / "x")
    assert error.value.errno == errno.ENOSPC


def test_a_shard_that_is_gone_is_named(s3: S3Path) -> None:
    task = TarTask("train", 3, "0" * 64, str(s3 / "data/shards/train/00003.tar"))
    with pytest.raises(ShardError, match=r"00003\.tar: no such shard; run its stage"), task.opened():
        pass


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "http://x"])
def test_what_is_no_place_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match=uri):
        place_of(uri)
    assert place_of("a/b", Path("/root")) == Path("/root/a/b")
    assert str(place_of("s3://b/c/")) == "s3://b/c"

"""`cfpp weights` against a web server in this process."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cfpp.cli import main
from cfpp.models import catalogue
from cfpp.models.external import ExternalFile

GOOD, OTHER = b"good" * 1000, b"other" * 1000


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; of `truncated.pth` only the first half of what it announces."""

    asked: list[str]

    def __init__(self, *args: Any, asked: list[str], **options: Any) -> None:
        self.asked = asked
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/truncated.pth":
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(GOOD[: len(GOOD) // 2])
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "good.pth").write_bytes(GOOD)
    (folder / "wrong.pth").write_bytes(OTHER)
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder), asked=asked))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def asked(site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were asked for, of a catalogue whose files are all GOOD but one without an address."""
    address, requests = site
    digest = hashlib.sha256(GOOD).hexdigest()
    files = [
        ExternalFile(f"{name}.pth", digest, name, f"metric {name}", len(GOOD), f"{address}/{name}.pth", "MIT")
        for name in ("good", "truncated", "wrong", "absent")
    ]
    files.append(ExternalFile("private.pth", digest, "private", "nothing", len(GOOD)))
    monkeypatch.setattr(catalogue, "CATALOGUE", tuple(files))
    return requests


def test_a_good_file_is_fetched_once(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new/weights"
    assert main(["weights", "fetch", "good.pth", "--root", str(root)]) == 0
    assert [path.name for path in root.iterdir()] == ["good.pth"]
    assert (root / "good.pth").read_bytes() == GOOD
    assert main(["weights", "fetch", "good.pth", "--root", str(root)]) == 0
    assert "good.pth: already there" in capsys.readouterr().out
    assert asked == ["/good.pth"]


def test_every_failure_is_named_leaves_nothing_and_stops_nothing(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["truncated.pth", "wrong.pth", "absent.pth", "private.pth", "good.pth"]
    assert main(["weights", "fetch", *names, "--root", str(tmp_path / "w")]) == 1
    out, error = capsys.readouterr()
    lines = {line.split(":")[0]: line for line in out.splitlines()}
    assert "cut short, 2000 of 4000 bytes" in lines["truncated.pth"]
    for content in (GOOD, OTHER):
        assert hashlib.sha256(content).hexdigest() in lines["wrong.pth"]
    assert "404" in lines["absent.pth"]
    assert "by hand" in lines["private.pth"]
    assert "fetched" in lines["good.pth"]
    assert "4 of 5 files not fetched" in error
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["good.pth"]


def test_all_takes_what_has_an_address_and_a_second_run_only_what_is_missing(
    tmp_path: Path, asked: list[str]
) -> None:
    root = tmp_path / "w"
    assert main(["weights", "fetch", "--all", "--root", str(root)]) == 1
    assert sorted(asked) == ["/absent.pth", "/good.pth", "/truncated.pth", "/wrong.pth"]
    asked.clear()
    (tmp_path / "site/wrong.pth").write_bytes(GOOD)
    (tmp_path / "site/absent.pth").write_bytes(GOOD)
    assert main(["weights", "fetch", "--all", "--root", str(root)]) == 1
    assert sorted(asked) == ["/absent.pth", "/truncated.pth", "/wrong.pth"]
    assert sorted(path.name for path in root.iterdir()) == ["absent.pth", "good.pth", "wrong.pth"]


def test_a_damaged_file_is_replaced_only_by_a_good_one(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good.pth", "wrong.pth"):
        (tmp_path / name).write_bytes(b"damaged")
    assert main(["weights", "fetch", "good.pth", "wrong.pth", "--root", str(tmp_path)]) == 1
    assert (tmp_path / "good.pth").read_bytes() == GOOD
    assert (tmp_path / "wrong.pth").read_bytes() == b"damaged"
    assert "wrong sha256" in capsys.readouterr().out


def test_no_network_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = ExternalFile("net.pth", "0" * 64, "net", "x", 1, "http://127.0.0.1:1/net.pth", "MIT")
    monkeypatch.setattr(catalogue, "CATALOGUE", (closed,))
    assert main(["weights", "fetch", "net.pth", "--root", str(tmp_path)]) == 1
    assert "net.pth: http://127.0.0.1:1/net.pth: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_list_says_what_is_there_good_or_wrong(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.pth").write_bytes(GOOD)
    (tmp_path / "wrong.pth").write_bytes(OTHER)
    assert main(["weights", "list", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.count(f"sha256 {hashlib.sha256(GOOD).hexdigest()}") == 5
    lines = {line.split()[0]: line for line in told.splitlines() if line[0] != " "}
    assert lines["good.pth"].endswith("present and good")
    assert lines["wrong.pth"].endswith("PRESENT, BUT WRONG sha256; run `cfpp weights fetch wrong.pth`")
    assert lines["absent.pth"].endswith("missing; run `cfpp weights fetch absent.pth`")
    assert lines["private.pth"].endswith("missing; place it by hand, see docs/weights.md")
    assert asked == []


def test_without_a_root_or_with_an_unknown_name_nothing_is_fetched(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[1] / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "fetch", "good.pth"]) == 1
    assert 'weights.root is ""' in capsys.readouterr().err
    assert main(["weights", "list"]) == 0
    assert "missing" in capsys.readouterr().out
    assert main(["weights", "fetch", "good.pth", "nonsense", "--root", str(tmp_path / "w")]) == 1
    assert "nonsense: not known" in capsys.readouterr().err
    assert asked == []
    assert not (tmp_path / "w").exists()

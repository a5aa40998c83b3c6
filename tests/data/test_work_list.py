"""Which files are read, and where their results go."""

import os
import socket
from pathlib import Path

import pytest

from cfpp.data.work_list import WorkList, WorkListError


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/sub/b.PNG", "in/sub/deep/c.gif", "in/notes.txt", "in/._a.jpg", "z.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def targets(*inputs: str) -> list[str]:
    return [work.target.as_posix() for work in WorkList.plan(inputs, Path("out")).works]


@pytest.mark.usefixtures("inputs")
def test_files_folders_and_patterns() -> None:
    plan = WorkList.plan(["in", "z.png", "nowhere.jpg"], Path("out"))
    assert [work.target.as_posix() for work in plan.works] == [
        "out/a.jpg",
        "out/sub/b.PNG",
        "out/sub/deep/c.gif",
        "out/z.png",
    ]
    assert plan.works[1].source == Path("in/sub/b.PNG")
    assert plan.missing == {"nowhere.jpg": "no such file or folder"}
    assert {path.name for path in plan.ignored} == {"notes.txt", "._a.jpg"}
    assert targets("in/*.jpg") == ["out/a.jpg"]
    assert targets("in/**/*.[Pg]*") == ["out/b.PNG", "out/c.gif"]
    assert targets("in/sub/*") == ["out/b.PNG"]
    assert WorkList.plan(["in/*.webp"], Path("out")).missing == {"in/*.webp": "no such file or folder"}
    Path("in/[1].png").write_bytes(b"")
    assert targets("in/[1].png") == ["out/[1].png"]


def test_linked_folders_are_searched_and_no_loop_is_entered(inputs: Path) -> None:
    (inputs / "far/more").mkdir(parents=True)
    (inputs / "far/more/d.png").write_bytes(b"")
    Path("in/linked").symlink_to(inputs / "far")
    Path("in/sub/up").symlink_to(inputs / "in")  # straight back
    Path("far/back").symlink_to(inputs / "in")  # and through another folder
    Path("in/twice").symlink_to(inputs / "far/more")
    plan = WorkList.plan(["in"], Path("out"))
    assert [work.name.as_posix() for work in plan.works] == [
        "a.jpg",
        "linked/more/d.png",
        "sub/b.PNG",
        "sub/deep/c.gif",
        "twice/d.png",
    ]
    assert plan.missing == {}
    with pytest.raises(WorkListError, match="lies in the input folder in/linked"):
        WorkList.plan(["in"], Path("far/out"))


@pytest.mark.usefixtures("inputs")
def test_only_regular_files_are_read() -> None:
    os.mkfifo("in/pipe.jpg")
    Path("in/device.png").symlink_to("/dev/zero")
    Path("in/broken.png").symlink_to("nowhere")
    Path("in/good.png").symlink_to(Path("z.png").resolve())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("in/socket.jpg")
        plan = WorkList.plan(["in", "in/pipe.jpg", "in/pi*.jpg"], Path("out"))
    assert [work.name.as_posix() for work in plan.works] == [
        "a.jpg",
        "good.png",
        "sub/b.PNG",
        "sub/deep/c.gif",
    ]
    kind = "no regular file but a pipe, a socket or a device"
    assert plan.missing == {
        "in/broken.png": "cannot be read: No such file or directory",
        "in/device.png": kind,
        "in/pipe.jpg": kind,
        "in/socket.jpg": kind,
    }


@pytest.mark.usefixtures("inputs")
def test_a_file_that_is_named_twice_is_restored_once() -> None:
    assert targets("z.png", "z*.png", "./z.png", str(Path("z.png").resolve())) == ["out/z.png"]
    assert targets("in/a.jpg", "in", "in") == ["out/a.jpg", "out/sub/b.PNG", "out/sub/deep/c.gif"]


@pytest.mark.usefixtures("inputs")
def test_a_pattern_that_finds_folders_only_says_so() -> None:
    missing = WorkList.plan(["i*", "in/s*"], Path("out")).missing
    assert missing == {
        "i*": "finds only folders, such as in; name the folder instead",
        "in/s*": "finds only folders, such as in/sub; name the folder instead",
    }


def test_an_output_that_would_be_read_again_is_refused(inputs: Path) -> None:
    for out in ("in", "in/out", "in/sub/../out"):
        with pytest.raises(WorkListError, match="lies in the input folder in"):
            WorkList.plan(["in"], Path(out))
    (inputs / "link").symlink_to(inputs / "in")
    with pytest.raises(WorkListError, match="lies in the input folder"):
        WorkList.plan(["in"], Path("link/out"))
    (inputs / "in/out").mkdir()
    (inputs / "in/out/old.jpg").write_bytes(b"")
    with pytest.raises(WorkListError, match="lies in the input folder in"):
        WorkList.plan(["in/**/*.jpg"], Path("in/out"))
    assert [work.target for work in WorkList.plan(["in/*.jpg"], Path("in/out")).works] == [
        Path("in/out/a.jpg")
    ]


@pytest.mark.usefixtures("inputs")
def test_no_result_replaces_an_input_or_another_result() -> None:
    with pytest.raises(WorkListError, match=r"would replace the input z\.png"):
        WorkList.plan(["z.png"], Path())
    Path("other").mkdir()
    Path("other/a.jpg").write_bytes(b"")
    with pytest.raises(WorkListError, match=r"in/a.jpg and other/a.jpg would both become out/a.jpg"):
        WorkList.plan(["in", "other"], Path("out"))
    Path("out").mkdir()
    Path("out/a.jpg").symlink_to(Path("in/a.jpg").resolve())
    with pytest.raises(WorkListError, match=r"would replace the input in/a\.jpg"):
        WorkList.plan(["in"], Path("out"))


def test_a_folder_that_cannot_be_listed_is_named(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    plan = WorkList.plan(["in"], Path("out"))
    assert plan.missing == {"in/sub": "cannot be listed: Permission denied"}
    assert [work.name for work in plan.works] == [Path("a.jpg")]

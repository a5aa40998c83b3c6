"""Which files are read, and where their results go."""

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
    import os

    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    plan = WorkList.plan(["in"], Path("out"))
    assert plan.missing == {"in/sub": "cannot be listed: Permission denied"}
    assert [work.name for work in plan.works] == [Path("a.jpg")]

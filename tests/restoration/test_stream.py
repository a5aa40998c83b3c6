"""Many files: each has its outcome, none stops the others, and what waits in memory is bounded."""

import io
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cfpp.restoration.stream
from cfpp.data.picture_files import PictureFile
from cfpp.data.work_list import Work, WorkList
from cfpp.restoration.stream import Outcome, Settings, restore_files
from cfpp.restoration.tasks import AlignedFaces, Prepared, WholePhotographs
from tests.restoration.test_photographs import Known, landmarks, smooth_photograph, turned

SIZE = 64
SETTINGS = Settings(batch_size=4)


class Still:
    """What a task needs of a restorer."""

    size = SIZE

    def at_size(self, pictures: np.ndarray) -> np.ndarray:
        assert pictures.shape[1:] == (SIZE, SIZE, 3)
        return pictures


class Negative:
    """A model that inverts, notes the sizes of its batches, and fails as it is told."""

    def __init__(self, *bad: int, most: int = 100) -> None:
        self.bad, self.most, self.batches = bad, most, list[int]()

    def __call__(self, *stacks: np.ndarray, batch_size: int, w: float) -> np.ndarray:
        faces = stacks[-1]
        self.batches.append(len(faces))
        if len(faces) > self.most and batch_size > 1:
            raise RuntimeError("CUDA out of memory")
        if np.isin(faces[:, 0, 0, 0], self.bad).any():
            raise RuntimeError("this face breaks it")
        return 255 - faces


def face(value: int) -> np.ndarray:
    made = np.random.default_rng(value).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    made[0, 0] = value
    return made


def write_faces(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for value in range(count):
        Image.fromarray(face(value)).save(folder / f"{value:03d}.png")


def run(
    folder: Path, out: Path, model: Any, settings: Settings = SETTINGS, task: Any = None
) -> dict[str, Outcome]:
    task = task or AlignedFaces(Still(), SIZE)  # type: ignore[arg-type]
    works = WorkList.plan([str(folder)], out).works
    outcomes = list(restore_files(works, task, model, settings))
    assert sorted(str(outcome.work.name) for outcome in outcomes) == sorted(str(work.name) for work in works)
    assert not list(out.rglob("*.tmp"))
    return {str(outcome.work.name): outcome for outcome in outcomes}


def test_batches_go_across_files_and_each_face_comes_to_its_own(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 11)
    model = Negative()
    outcomes = run(tmp_path / "in", tmp_path / "out", model)
    assert model.batches == [1, 4, 4, 2]
    for value in range(11):
        assert outcomes[f"{value:03d}.png"].status == "restored"
        found = np.asarray(Image.open(tmp_path / "out" / f"{value:03d}.png"))
        np.testing.assert_array_equal(found, 255 - face(value))


def test_several_threads_run_the_model_at_a_time_and_no_file_is_another_ones(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 30)
    both = threading.Barrier(2, timeout=30)

    def model(faces: np.ndarray, batch_size: int, w: float) -> np.ndarray:
        assert torch.get_num_threads() == 1  # the threads share the cores
        if len(faces) > 1:  # the first face goes alone
            both.wait()  # passes only where another batch is in the model, too
        return 255 - faces

    torch.set_num_threads(2)
    try:
        run(tmp_path / "in", tmp_path / "out", model, replace(SETTINGS, batch_size=5, models=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for value in range(30):
        found = np.asarray(Image.open(tmp_path / "out" / f"{value:03d}.png"))
        np.testing.assert_array_equal(found, 255 - face(value))


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name, bytes, and what the reason must say."""

    def stored(kind: str, *frames: Image.Image, **options: Any) -> bytes:
        buffer = io.BytesIO()
        more = {"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}
        frames[0].save(buffer, kind, **more, **options)
        return buffer.getvalue()

    frames = [Image.new("RGB", (SIZE, SIZE), (value, 0, 0)) for value in (0, 90)]
    good = stored("PNG", Image.fromarray(face(1)))
    pixelless = bytearray(stored("BMP", frames[0]))
    struct.pack_into("<ii", pixelless, 18, 0, 0)
    return {
        "003-corrupt.png": (good[: len(good) // 2], "damaged or truncated"),
        "003-empty.jpg": (b"", "empty file"),
        "003-flat.bmp": (bytes(pixelless), "not a picture"),
        "003-moves.gif": (stored("GIF", *frames), "GIF, animated"),
        "003-moves.png": (stored("PNG", *frames), "2 frames"),
        "003-pages.tif": (stored("TIFF", *frames), "2 frames or pages"),
        "003-wide.png": (stored("PNG", Image.new("RGB", (SIZE, SIZE + 1))), "an aligned face is square"),
        "003-text.jpg": (b"text", "not a picture"),
    }


def test_bad_files_among_good_ones_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 6)
    bad = bad_files()
    for name, (data, _) in bad.items():
        (tmp_path / "in" / name).write_bytes(data)
    outcomes = run(tmp_path / "in", tmp_path / "out", Negative())
    for name, (_, reason) in bad.items():
        assert outcomes[name].status == "failed"
        assert reason in outcomes[name].notes[0]
        assert not (tmp_path / "out" / name).exists()
    assert sum(outcome.status == "restored" for outcome in outcomes.values()) == 6
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_a_batch_that_fails_is_tried_again_file_by_file(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 9)
    tight = Negative(most=1)
    outcomes = run(tmp_path / "in", tmp_path / "out", tight)
    assert {outcome.status for outcome in outcomes.values()} == {"restored"}
    assert tight.batches == [1, 4, 1, 1, 1, 1, 4, 1, 1, 1, 1]
    outcomes = run(tmp_path / "in", tmp_path / "other", Negative(2, 5))
    failed = {name for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {"002.png", "005.png"}
    assert outcomes["002.png"].notes == ("RuntimeError: this face breaks it",)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "other/003.png")), 255 - face(3))


def test_a_result_that_is_there_is_neither_read_for_nor_replaced(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 3)
    out = tmp_path / "out"
    out.mkdir()
    (out / "001.png").write_bytes(b"precious")
    (out / "002.png").symlink_to("nowhere")
    outcomes = run(tmp_path / "in", out, Negative())
    assert [outcome.status for outcome in outcomes.values()] == ["restored", "skipped", "skipped"]
    assert (out / "001.png").read_bytes() == b"precious"
    assert "is there already" in outcomes["001.png"].notes[0]
    outcomes = run(tmp_path / "in", out, Negative(), replace(SETTINGS, overwrite=True))
    assert {outcome.status for outcome in outcomes.values()} == {"restored"}
    np.testing.assert_array_equal(np.asarray(Image.open(out / "001.png")), 255 - face(1))


def test_a_result_that_cannot_be_written_is_named_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path / "in", 4)
    (tmp_path / "in/sub").mkdir()
    (tmp_path / "in/001.png").rename(tmp_path / "in/sub/001.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_bytes(b"a file where a folder is wanted")
    (out / "002.png").write_bytes(b"precious")
    write = cfpp.restoration.stream.write_picture_file

    def full(path: Path, *rest: Any) -> None:
        if path.name.endswith("002.png.tmp"):
            path.write_bytes(b"half a fi")
            raise OSError(28, "No space left on device", str(path))
        write(path, *rest)

    monkeypatch.setattr(cfpp.restoration.stream, "write_picture_file", full)
    outcomes = run(tmp_path / "in", out, Negative(), replace(SETTINGS, overwrite=True))
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "000.png": "restored",
        "002.png": "failed",
        "003.png": "restored",
        "sub/001.png": "failed",
    }
    assert "No space left" in outcomes["002.png"].notes[0]
    assert "out/sub" in outcomes["sub/001.png"].notes[0]
    assert (out / "002.png").read_bytes() == b"precious"
    assert (out / "sub").is_file()


class Counting:
    """A task that counts the files between reading and writing."""

    def __init__(self) -> None:
        self.task = AlignedFaces(Still(), SIZE)  # type: ignore[arg-type]
        self.lock = threading.Lock()
        self.alive = self.most = 0

    def prepare(self, work: Work, file: PictureFile) -> Prepared:
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        return self.task.prepare(work, file)

    def finish(self, prepared: Prepared, restored: np.ndarray) -> np.ndarray:
        with self.lock:
            self.alive -= 1
        return self.task.finish(prepared, restored)


@pytest.mark.parametrize(("pixels", "most"), [(10**9, 6 + 4 + 6), (2 * SIZE**2, 2 + 2 + 2)])
def test_what_waits_is_bounded_by_number_and_by_pixels_not_by_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, most: int
) -> None:
    monkeypatch.setattr(cfpp.restoration.stream, "PIXELS", pixels)
    write_faces(tmp_path / "in", 60)
    task = Counting()
    outcomes = run(tmp_path / "in", tmp_path / "out", Negative(), task=task)
    assert {outcome.status for outcome in outcomes.values()} == {"restored"}
    assert task.alive == 0
    assert 2 <= task.most <= most + 1


def test_a_picture_larger_than_all_that_may_wait_goes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cfpp.restoration.stream, "PIXELS", 100)
    write_faces(tmp_path / "in", 5)
    model = Negative()
    assert {o.status for o in run(tmp_path / "in", tmp_path / "out", model).values()} == {"restored"}
    assert model.batches == [1, 1, 1, 1, 1]


def test_whoever_stops_listening_stops_the_work(tmp_path: Path) -> None:
    write_faces(tmp_path / "in", 30)
    works = WorkList.plan([str(tmp_path / "in")], tmp_path / "out").works
    task = AlignedFaces(Still(), SIZE)  # type: ignore[arg-type]
    outcomes = restore_files(works, task, Negative(), SETTINGS)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read_", "write_"))]
    made = list((tmp_path / "out").iterdir())
    assert 1 <= len(made) < 30
    assert all(path.suffix == ".png" for path in made)


def test_photographs_keep_what_surrounds_the_faces_and_are_copied_without_any(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph = smooth_photograph(100, 140)
    Image.fromarray(photograph).save(folder / "a.png")
    Image.fromarray(photograph).save(folder / "b.jpg", quality=40)
    where = landmarks(turned(1.0, 0, 70, 50))

    class OnlyPng(Known):
        def detect(self, picture: np.ndarray, confidence: float = 0.8) -> Any:
            return (Known(where, where + 0.1) if (picture == photograph).all() else Known()).detect(picture)

    task = WholePhotographs(Still(), OnlyPng())  # type: ignore[arg-type]
    outcomes = run(folder, tmp_path / "out", Negative(), replace(SETTINGS, compare=tmp_path / "both"), task)
    assert (outcomes["a.png"].status, outcomes["a.png"].faces) == ("restored", 2)
    assert (outcomes["b.jpg"].status, outcomes["b.jpg"].notes) == ("copied", ("no face found",))
    assert (tmp_path / "out/b.jpg").read_bytes() == (folder / "b.jpg").read_bytes()
    out = np.asarray(Image.open(tmp_path / "out/a.png"))
    np.testing.assert_array_equal(out[:, :30], photograph[:, :30])
    assert np.abs(out[45:55, 65:75].astype(int) - (255 - photograph[45:55, 65:75])).max() <= 4
    both = np.asarray(Image.open(tmp_path / "both/a.png.jpg")).astype(int)
    assert both.shape == (100, 280, 3)
    assert np.abs(both[:, :140] - photograph).mean() < 3
    assert np.abs(both[:, 140:] - out).mean() < 3
    assert not (tmp_path / "both/b.jpg.jpg").exists()

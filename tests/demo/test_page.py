"""The page in a browser, with real clicks."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from cfpp.cli import main
from cfpp.config import load_params
from cfpp.data.pictures import encode_png
from cfpp.demo.page import build, launch, silence_gradio
from cfpp.demo.workbench import Workbench, examples, mark
from cfpp.errors import MendableError
from cfpp.registry.restorers import open_restorer
from cfpp.restoration.photographs import restore_photograph
from cfpp.restoration.restorer import Restorer
from tests.demo.browser import demo, find_chromium, opened, picture_of
from tests.demo.fixed_detector import FixedDetector
from tests.s3 import free_port
from tests.tiny_models import SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[2]
FACE = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)

NO_BROWSER = "needs chromium: apt-get install chromium"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "params.yaml", folder)
    write_models(folder / "models")
    (folder / "face.png").write_bytes(encode_png(FACE))
    (folder / "corrupt.png").write_bytes(encode_png(FACE)[:300])
    return folder


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason=NO_BROWSER)
def test_a_face_is_restored_by_clicks_and_a_corrupt_file_gets_a_message(project: Path) -> None:
    restorer = Restorer.load(project / "models")
    [drawn] = examples(load_params(project / "params.yaml"), SIZE, [1])
    with demo(project, "--model", "models") as address, opened(address) as (page, outside):
        version, status, made = (page.locator(f"#{name}") for name in ("version", "status", "result"))
        preview, restore = page.locator("#preview img"), page.locator("#restore")
        assert "models · weights: prior " in version.inner_text()
        assert "cfpp weights fetch" in page.locator("#aligned-only").inner_text()
        restore.click()
        status.get_by_text("Choose a picture first").wait_for()

        def shown(w: str) -> np.ndarray:
            status.get_by_text(f"w = {w}").wait_for()
            before, after = (picture_of(page, made.locator("img").nth(place)) for place in range(2))
            np.testing.assert_array_equal(before, source)
            return after

        page.locator("#examples button").nth(1).click()
        source = drawn
        preview.wait_for()
        restore.click()
        np.testing.assert_array_equal(shown("0.00"), restorer.restore(source[None])[0])

        page.locator("#upload input[type=file]").set_input_files(project / "face.png")
        made.locator("img").first.wait_for(state="detached")  # the example's is gone
        source = FACE
        restore.click()
        as_trained = shown("0.00")
        np.testing.assert_array_equal(as_trained, restorer.restore(source[None])[0])
        handle = page.locator("#w input[type=range]").bounding_box()
        assert handle
        page.mouse.click(handle["x"] + handle["width"] - 2, handle["y"] + handle["height"] / 2)
        identity = shown("1.00")
        np.testing.assert_array_equal(identity, restorer.restore(source[None], w=1.0)[0])
        assert (identity != as_trained).any()

        page.locator("#upload button[aria-label='Clear']").first.click()
        preview.wait_for(state="detached")
        page.locator("#upload input[type=file]").set_input_files(project / "corrupt.png")
        status.get_by_text("cannot be restored: damaged or truncated").wait_for()
        assert made.locator("img").count() == 0
        restore.click()
        status.get_by_text("cannot be restored: damaged or truncated").wait_for()

        page.locator("#examples button").nth(1).click()  # and the page still works
        source = drawn
        preview.wait_for()
        restore.click()
        np.testing.assert_array_equal(shown("1.00"), restorer.restore(source[None], w=1.0)[0])
        assert outside == []


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason=NO_BROWSER)
def test_the_faces_of_a_photograph_are_marked(project: Path, tmp_path: Path) -> None:
    photo = np.random.default_rng(6).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    (project / "photo.png").write_bytes(encode_png(photo))
    params = load_params(project / "params.yaml")
    detector = FixedDetector([60.0, 20, 140, 110])
    workbench = Workbench(open_restorer(str(project / "models"), params.mlflow, project, "cpu"), detector)
    expected = restore_photograph(photo, detector, workbench.opened.restorer, w=0.0)
    silence_gradio(tmp_path)
    page_in_gradio = build(workbench, [FACE])
    address = launch(page_in_gradio, host="127.0.0.1", port=free_port(), browser=False)
    try:
        with opened(address) as (page, outside):
            page.locator("#upload input[type=file]").set_input_files(project / "photo.png")
            page.locator("#preview img").wait_for()
            page.locator("#restore").click()
            page.locator("#status").get_by_text("Photograph, 1 face restored.").wait_for()
            shown = [picture_of(page, page.locator("#result img").nth(place)) for place in range(2)]
            marked = picture_of(page, page.locator("#preview img"))
        np.testing.assert_array_equal(shown, [photo, expected.picture])
        np.testing.assert_array_equal(marked, mark(photo, expected.boxes, expected.points))
        assert outside == []
    finally:
        page_in_gradio.close(verbose=False)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    silence_gradio(tmp_path)
    import gradio

    with gradio.Blocks() as page:
        gradio.Markdown("a page")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MendableError, match=f"127.0.0.1:{port}: the page cannot be served there"):
            launch(page, host="127.0.0.1", port=port, browser=False)


def test_without_a_champion_the_command_says_what_else_there_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    assert main(["demo"]) == 1
    assert main(["demo", "--model", "models", "--device", "tpu"]) == 1
    no_champion, no_device = capsys.readouterr().err.splitlines()
    assert no_champion.startswith("cfpp demo: models:/codeformer-plus-plus@champion: no such model version")
    assert no_champion.endswith("--model models")
    assert "device tpu" in no_device

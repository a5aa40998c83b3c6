"""What the demo page does, without a page."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpp.config import load_params
from cfpp.data.draws import generator
from cfpp.data.pictures import PictureError, encode_png
from cfpp.data.procedural import render
from cfpp.demo.workbench import MAX_PIXELS, Kind, NothingChosenError, Workbench, examples, mark, read
from cfpp.errors import MendableError
from cfpp.models.external import ExternalFileError
from cfpp.registry.restorers import open_restorer
from cfpp.restoration.photographs import restore_photograph
from cfpp.restoration.restorer import RestoreError
from tests.demo.fixed_detector import FixedDetector
from tests.tiny_models import SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = load_params(REPOSITORY / "params.yaml")
FACE = generator(0, "face").integers(0, 256, (80, 80, 3), dtype=np.uint8)
PHOTO = generator(0, "photo").integers(0, 256, (120, 200, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Workbench:
    models = write_models(tmp_path_factory.mktemp("project") / "models")
    return Workbench.of(open_restorer(str(models), PARAMS.mlflow, models.parent, "cpu"), "")


def test_an_aligned_face_comes_out_as_the_restorer_restores_it(workbench: Workbench) -> None:
    for w in (0.0, 0.7):
        outcome = workbench.restore(encode_png(FACE), Kind.ALIGNED, w)
        [expected] = workbench.opened.restorer.restore(FACE[None], w=w)
        np.testing.assert_array_equal(outcome.after, expected)
        assert outcome.before.shape == outcome.after.shape
        assert f"80 x 80 pixels, restored at {SIZE} x {SIZE}. w = {w:.2f}" in outcome.message
        np.testing.assert_array_equal(outcome.marked, FACE)


def test_a_photograph_comes_out_with_its_faces_restored_and_marked(workbench: Workbench) -> None:
    small = [150.0, 20, 160, 30]
    detector = FixedDetector([60.0, 20, 140, 110], small)
    bench = dataclasses.replace(workbench, detector=detector)
    assert bench.kinds == (Kind.PHOTOGRAPH, Kind.ALIGNED)
    outcome = bench.restore(encode_png(PHOTO), Kind.PHOTOGRAPH, 0.3)
    expected = restore_photograph(PHOTO, detector, bench.opened.restorer, w=0.3)
    np.testing.assert_array_equal(outcome.after, expected.picture)
    np.testing.assert_array_equal(outcome.before, PHOTO)
    assert (outcome.after != PHOTO).any()
    assert "Photograph, 1 face restored. Left as they were: face at (150, 20, 160, 30)" in outcome.message
    changed = (outcome.marked != PHOTO).any(axis=2)
    assert changed[20, 60:141].all()  # the box's upper edge
    assert not changed[20:31, 150:161].any()
    assert not changed[:18].any()


def test_a_photograph_without_faces_is_unchanged_and_says_so(workbench: Workbench) -> None:
    outcome = dataclasses.replace(workbench, detector=FixedDetector()).restore(
        encode_png(PHOTO), Kind.PHOTOGRAPH, 0.0
    )
    np.testing.assert_array_equal(outcome.after, PHOTO)
    np.testing.assert_array_equal(outcome.marked, PHOTO)
    assert outcome.message.startswith("No face was found, so nothing was changed.")
    only_small = dataclasses.replace(workbench, detector=FixedDetector([150.0, 20, 160, 30]))
    outcome = only_small.restore(encode_png(PHOTO), Kind.PHOTOGRAPH, 0.0)
    np.testing.assert_array_equal(outcome.after, PHOTO)
    assert outcome.message.startswith("No face was restored. Left as they were: face at (150, 20, 160, 30)")


def test_marks_lie_on_boxes_and_points_alone() -> None:
    marked = mark(np.zeros((100, 100, 3), np.uint8), np.array([[10.2, 20, 50, 60]]), np.array([[[30.0, 40]]]))
    expected = np.zeros((100, 100), bool)
    expected[20:61, 10:51] = True
    expected[21:60, 11:50] = False
    expected[40, 29:32] = expected[39:42, 30] = True  # a disc of radius 1
    np.testing.assert_array_equal(marked.any(axis=2), expected)


def test_bad_uploads_are_named(workbench: Workbench) -> None:
    with pytest.raises(NothingChosenError):
        workbench.restore(None, Kind.ALIGNED, 0.0)
    gif = io.BytesIO()
    frames = [Image.fromarray(FACE), Image.fromarray(255 - FACE)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    side = int(MAX_PIXELS**0.5) + 1
    huge = io.BytesIO()
    Image.new("1", (side, side)).save(huge, "PNG")
    for data, reason in (
        (b"", "empty"),
        (b"no picture at all", "not a picture"),
        (encode_png(FACE)[:500], "damaged or truncated"),
        (gif.getvalue(), "a GIF, animated"),
        (huge.getvalue(), f"too large: {side} x {side}"),
    ):
        with pytest.raises(PictureError, match=reason):
            read(data)
    with pytest.raises(RestoreError, match="it is 200 x 120 pixels; an aligned face is square"):
        workbench.restore(encode_png(PHOTO), Kind.ALIGNED, 0.0)
    with pytest.raises(RestoreError, match="w 2"):
        workbench.restore(encode_png(FACE), Kind.ALIGNED, 2.0)


def test_without_a_detector_there_are_aligned_faces_only_and_the_reason(
    workbench: Workbench, tmp_path: Path
) -> None:
    assert workbench.kinds == (Kind.ALIGNED,)
    assert "cfpp weights fetch detection_mobilenet0.25_Final.pth" in workbench.why_aligned_only
    (tmp_path / "detection_mobilenet0.25_Final.pth").write_bytes(b"cut short")
    with pytest.raises(ExternalFileError, match="sha256"):
        Workbench.of(workbench.opened, str(tmp_path))
    blind = write_models(tmp_path / "models", prior_kind="folder")
    with pytest.raises(MendableError, match="knows another prior's pictures only"):
        Workbench.of(open_restorer(str(blind), PARAMS.mlflow, tmp_path, "cpu"), "")


def test_the_examples_are_degraded_strangers_and_always_the_same() -> None:
    pictures = examples(PARAMS, 64, range(2))
    again = examples(PARAMS, 64, [1])
    np.testing.assert_array_equal(pictures[1], again[0])
    clean = render(PARAMS.run.seed, 90_001, 0, 64)
    assert int(clean.identity.removeprefix("p")) >= PARAMS.data.identities
    difference = np.abs(pictures[1].astype(float) - clean.picture).mean()
    assert 1 < difference < 60  # another picture, of the same face
    assert [picture.shape for picture in examples(PARAMS, 512, range(1))] == [(256, 256, 3)]

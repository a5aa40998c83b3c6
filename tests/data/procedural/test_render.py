"""The rendered face: repeatable, aligned, the same at every size, a person, and full of texture."""

import itertools

import cv2
import numpy as np
import pytest

from cfpp.data.procedural import face as classes
from cfpp.data.procedural.face import TEMPLATE_512, Face
from cfpp.data.procedural.person import draw_person
from cfpp.data.procedural.render import render
from cfpp.data.procedural.sheet import contact_sheet

SEED = 5
PEOPLE, SHOTS = 10, 3


@pytest.fixture(scope="module")
def faces() -> dict[tuple[int, int], Face]:
    return {(p, s): render(SEED, p, s, 128) for p in range(PEOPLE) for s in range(SHOTS)}


@pytest.fixture(scope="module")
def large() -> Face:
    return render(SEED, 2, 1, 512)


def _same(a: Face, b: Face) -> bool:
    return (
        a.picture.tobytes() == b.picture.tobytes()
        and a.parsing.tobytes() == b.parsing.tobytes()
        and a.landmarks68.tobytes() == b.landmarks68.tobytes()
        and a.landmarks5.tobytes() == b.landmarks5.tobytes()
    )


def test_face_has_the_documented_form(faces: dict[tuple[int, int], Face]) -> None:
    face = faces[3, 2]
    assert face.picture.shape == (128, 128, 3)
    assert face.picture.dtype == np.uint8
    assert face.parsing.shape == (128, 128)
    assert face.parsing.dtype == np.uint8
    assert face.landmarks5.shape == (5, 2)
    assert face.landmarks68.shape == (68, 2)
    assert (face.identity, face.key) == ("p00003", "p00003s02")


def test_bytes_do_not_depend_on_what_was_rendered_before_nor_on_threads(
    faces: dict[tuple[int, int], Face],
) -> None:
    threads = cv2.getNumThreads()
    try:
        for count, key in ((1, (7, 1)), (4, (0, 0)), (2, (7, 1))):
            cv2.setNumThreads(count)
            assert _same(render(SEED, *key, 128), faces[key])
    finally:
        cv2.setNumThreads(threads)


def test_seed_person_and_shot_each_change_the_picture(faces: dict[tuple[int, int], Face]) -> None:
    face = faces[1, 1].picture.astype(float)
    for other in (render(SEED + 1, 1, 1, 128), faces[2, 1], faces[1, 2]):
        assert np.abs(face - other.picture).mean() > 8


@pytest.mark.parametrize("size", [0, 31, 513])
def test_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        render(SEED, 0, 0, size)


def test_landmarks_lie_as_ffhq_alignment_leaves_them(faces: dict[tuple[int, int], Face]) -> None:
    template = TEMPLATE_512 / 4 - 0.375  # pixel centres of 512 to those of 128
    for face in faces.values():
        # the best similarity from the face's points to the template must already be the identity
        x, y = face.landmarks5.T
        one, zero = np.ones(5), np.zeros(5)
        design = np.concatenate([np.stack([x, -y, one, zero], -1), np.stack([y, x, zero, one], -1)])
        solution = np.linalg.lstsq(design, template.T.ravel(), rcond=None)[0]
        # least squares towards the template shrinks a little, by the residual; turn and shift stay nil
        assert solution[0] == pytest.approx(1, abs=0.02)
        assert solution[1] == pytest.approx(0, abs=1e-3)
        assert np.linalg.norm(face.landmarks5 - template, axis=1).max() < 9
    errors = [np.linalg.norm(f.landmarks5 - template, axis=1).mean() for f in faces.values()]
    assert np.mean(errors) < 3
    assert np.std([f.landmarks5[2, 0] for f in faces.values()]) > 0.3  # noses move with the pose


def test_landmarks_agree_with_parsing(faces: dict[tuple[int, int], Face]) -> None:
    lips = (classes.UPPER_LIP, classes.LOWER_LIP, classes.MOUTH)
    for face in faces.values():
        x, y = np.round(face.landmarks5).astype(int).T
        assert face.parsing[y[0], x[0]] == classes.EYE_L
        assert face.parsing[y[1], x[1]] == classes.EYE_R
        assert face.parsing[y[2], x[2]] == classes.NOSE
        rows, columns = np.nonzero(np.isin(face.parsing, lips))
        for corner, extreme in ((3, columns.min()), (4, columns.max())):
            assert (
                np.hypot(columns - face.landmarks5[corner, 0], rows - face.landmarks5[corner, 1]).min() < 2.5
            )
            assert abs(extreme - face.landmarks5[corner, 0]) < 3
        for kind, points in ((classes.EYE_L, slice(36, 42)), (classes.EYE_R, slice(42, 48))):
            rows, columns = np.nonzero(face.parsing == kind)
            box = face.landmarks68[points]
            assert np.abs(box.min(0) - (columns.min(), rows.min())).max() < 3
            assert np.abs(box.max(0) - (columns.max(), rows.max())).max() < 3


def test_landmarks68_are_in_ibug_order(faces: dict[tuple[int, int], Face]) -> None:
    for face in faces.values():
        p = face.landmarks68
        assert (np.diff(p[2:15, 0]) > 0).all()  # jaw, left to right
        assert p[8, 1] == p[0:17, 1].max()  # chin lowest
        assert (np.diff(p[17:27, 0]) > 0).all()  # brows, left to right
        assert (np.diff(p[27:31, 1]) > 0).all()  # nose, downwards
        assert (np.diff(p[31:36, 0]) > 0).all()
        np.testing.assert_allclose(p[36:42].mean(0), face.landmarks5[0], atol=0.5)
        np.testing.assert_allclose(p[[30, 48, 54]], face.landmarks5[2:], atol=1e-9)


def test_sizes_show_the_same_face(large: Face) -> None:
    for size, floor in ((128, 33.0), (256, 32.0)):
        small = render(SEED, 2, 1, size)
        scale = 512 / size
        np.testing.assert_allclose((small.landmarks68 + 0.5) * scale, large.landmarks68 + 0.5, atol=1.5)
        reduced = cv2.resize(large.picture, (size, size), interpolation=cv2.INTER_AREA).astype(float)
        error = ((reduced - small.picture) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > floor
        step = int(scale)
        assert (large.parsing[step // 2 :: step, step // 2 :: step] == small.parsing).mean() > 0.93


def _signature(face: Face) -> np.ndarray:
    """Skin tone ratios and proportions, measured from the outside."""
    skin = face.picture[face.parsing == classes.SKIN].astype(float)
    red, green, blue = np.median(skin, 0) + 1
    eyes = face.landmarks5[1] - face.landmarks5[0]
    width = face.landmarks68[35, 0] - face.landmarks68[31, 0]
    brow = face.landmarks68[36:48, 1].mean() - face.landmarks68[17:27, 1].mean()
    tone = [3 * np.log(red / green), 1.5 * np.log(green / blue), 0.6 * np.log(green)]
    return np.array([*tone, 2 * width / eyes[0], 2 * brow / eyes[0]])


def test_pictures_of_a_person_are_nearer_than_those_of_two(faces: dict[tuple[int, int], Face]) -> None:
    marks = {key: _signature(face) for key, face in faces.items()}
    within, between = [], []
    for one, two in itertools.combinations(marks, 2):
        (within if one[0] == two[0] else between).append(np.linalg.norm(marks[one] - marks[two]))
    nearer = np.mean([w < np.array(between) for w in within])  # area under the ROC curve; chance is 0.5
    assert nearer > 0.75


def test_identity_parameters_are_the_persons_alone() -> None:
    one, again, other = draw_person(SEED, 4), draw_person(SEED, 4), draw_person(SEED, 5)
    assert np.array_equal(one.skin, again.skin)
    assert one.eye_x == again.eye_x
    assert one.eye_x != other.eye_x


def test_skin_has_texture_at_both_sizes(faces: dict[tuple[int, int], Face], large: Face) -> None:
    for face in (faces[2, 1], large):
        grey = cv2.cvtColor(face.picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        skin = cv2.erode((face.parsing == classes.SKIN).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.2)
        plain = cv2.GaussianBlur(grey, (0, 0), 3.0)
        plain = plain - cv2.GaussianBlur(plain, (0, 0), 1.2)
        assert fine[skin].std() > 0.8
        assert fine[skin].std() > 4 * plain[skin].std()


def test_faces_are_lit_neither_black_nor_burnt(faces: dict[tuple[int, int], Face]) -> None:
    for face in faces.values():
        skin = face.picture[face.parsing == classes.SKIN]
        assert 15 < np.median(skin) < 245
        assert (skin >= 254).all(-1).mean() < 0.2


def test_every_person_shows_the_main_parts(faces: dict[tuple[int, int], Face]) -> None:
    main = {classes.SKIN, classes.EYE_L, classes.EYE_R, classes.NOSE, classes.UPPER_LIP, classes.LOWER_LIP}
    for face in faces.values():
        assert main | {classes.BACKGROUND, classes.NECK} <= set(np.unique(face.parsing))


def test_contact_sheet_lays_people_in_columns(faces: dict[tuple[int, int], Face]) -> None:
    sheet = contact_sheet(SEED, 2, 3, 128)
    assert sheet.shape == (256, 384, 3)
    assert np.array_equal(sheet[128:, 256:], faces[2, 1].picture)

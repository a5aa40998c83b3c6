"""What the report's pictures show."""

import base64

import cv2
import numpy as np
import pytest

from cfpp.evaluation.panels import STEPS, choose_faces, colour_wheel, data_uri, draw_flow, make_panel, sheet


def uniform_flow(rows: float, columns: float) -> np.ndarray:
    return np.stack([np.full((4, 4), rows), np.full((4, 4), columns)])


def test_no_displacement_is_white_and_length_is_saturation() -> None:
    assert (draw_flow(uniform_flow(0, 0), 5.0) == 255).all()
    weak, strong = draw_flow(uniform_flow(0, 1), 4.0)[0, 0], draw_flow(uniform_flow(0, 4), 4.0)[0, 0]
    assert strong.tolist() == [255, 0, 0]
    assert weak.tolist() == [255, 191, 191]


def test_directions_have_their_own_colours_and_the_wheel_shows_them() -> None:
    wheel = colour_wheel(65)
    for rows, columns in ((0, 1), (1, 0), (0, -1), (-1, 0), (0.6, 0.6)):
        drawn = draw_flow(uniform_flow(rows, columns), 1.0)[0, 0].astype(int)
        place = (round(32 + 31 * rows), round(32 + 31 * columns))
        assert np.abs(wheel[place].astype(int) - drawn).max() < 25


def test_faces_are_of_different_people_and_do_not_depend_on_their_order() -> None:
    items = [(f"p{i:02d}", v) for i in range(6) for v in range(3)]
    people = [key[:3] for key, _ in items]
    chosen = choose_faces(items, people, 4)
    assert len({people[place] for place in chosen}) == 4
    assert chosen == sorted(chosen)
    assert len(choose_faces(items, people, 100)) == len(items)
    backwards = choose_faces(items[::-1], people[::-1], 4)
    assert {items[::-1][place] for place in backwards} == {items[place] for place in chosen}


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (256, "jpeg")])
def test_pictures_travel_inside_the_page(side: int, kind: str) -> None:
    ramp = np.linspace(0, 255, side).astype(np.uint8)[:, None, None].repeat(side, 1).repeat(3, 2)
    ramp[..., 2] = 0
    header, data = data_uri(ramp).split(",")
    assert header == f"data:image/{kind};base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - ramp).max() <= (0 if kind == "png" else 6)


def test_the_sheet_holds_every_step_of_every_face() -> None:
    pictures = {
        name: np.full((32, 32, 3), 20 * i, np.uint8)
        for i, name in enumerate(STEPS)
        if name not in ("flow", "mask")
    }
    panel = make_panel(
        "p1",
        0,
        pictures | {"mask": np.full((32, 32), 9, np.uint8)},
        uniform_flow(3, 4).repeat(8, 1).repeat(8, 2),
    )
    assert panel.reach == pytest.approx(5)
    drawn = sheet([panel, panel], side=32, gap=4)
    assert drawn.shape == (20 + 2 * 36, len(STEPS) * 36 - 4, 3)
    for column, name in enumerate(STEPS):
        assert (drawn[20 + 36 + 16, column * 36 + 16] == panel.pictures[name][16, 16]).all()

"""Who is pictured: everything that stays the same from shot to shot. Lengths in millimetres."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from cfpp.data.draws import generator


class HairStyle(Enum):
    RECEDED = "receded"
    BUZZ = "buzz"
    SHORT = "short"
    FRINGE = "fringe"
    CURLY = "curly"
    MEDIUM = "medium"
    LONG = "long"


class BeardStyle(Enum):
    NONE = "none"
    STUBBLE = "stubble"
    MOUSTACHE = "moustache"
    GOATEE = "goatee"
    FULL = "full"


_SKIN = np.array([[243, 208, 190], [228, 183, 156], [200, 148, 114], [146, 98, 71], [88, 58, 44]], np.float32)
_HAIR = {
    "black": (24, 20, 19),
    "dark": (46, 32, 24),
    "brown": (84, 57, 38),
    "auburn": (112, 56, 32),
    "light": (132, 97, 64),
    "blond": (194, 158, 108),
    "red": (152, 76, 38),
    "grey": (138, 135, 132),
    "white": (206, 203, 198),
}
_IRIS = {
    "blue": (104, 146, 186),
    "grey": (136, 152, 160),
    "green": (112, 138, 92),
    "hazel": (134, 106, 58),
    "brown": (96, 58, 32),
    "dark": (54, 33, 22),
}


def to_linear(colour: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """sRGB 0..255 to linear 0..1."""
    return ((np.asarray(colour, np.float32) / 255.0) ** 2.2).astype(np.float32)


@dataclass(frozen=True)
class Person:
    """Identity parameters; positions relative to the point midway between the eyes, y upwards."""

    seed: int
    identity: int
    masculinity: float
    age: float  # 0 young adult .. 1 old
    melanin: float
    skin: np.ndarray  # linear RGB albedo
    redness: float
    oiliness: float
    freckles: float
    moles: int
    # skull and jaw
    temple_width: float
    cheek_width: float
    jaw_width: float
    chin_width: float
    chin_y: float
    chin_forward: float
    forehead: float
    cheekbone: float
    neck_width: float
    # eyes
    eye_x: float
    eye_width: float  # half
    eye_up: float
    eye_down: float
    eye_tilt: float
    eye_depth: float
    crease: float  # height of the fold above the lid
    bags: float
    iris: np.ndarray
    iris_inner: np.ndarray
    iris_radius: float
    lashes: float
    # brows
    brow_y: float
    brow_width: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    brow_density: float
    brow_ridge: float
    # nose
    nose_y: float
    nose_height: float
    nose_width: float
    nose_bridge: float
    nose_hump: float
    nose_tip: float
    # mouth
    mouth_y: float
    mouth_width: float  # half
    upper_lip: float
    lower_lip: float
    cupid: float
    mouth_curve: float
    lip_colour: np.ndarray
    # hair
    style: HairStyle
    beard: BeardStyle
    hair: np.ndarray
    hairline: float
    part: float  # radians
    hair_volume: float
    waves: float
    ears: float


def draw_person(seed: int, identity: int) -> Person:
    """The person of this number; a function of (seed, identity) alone."""
    rng = generator(seed, "person", identity)

    def normal(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(rng.standard_normal(), -2.0, 2.0))

    def pick(options: list[str], weights: list[float]) -> str:
        return str(rng.choice(options, p=np.asarray(weights) / sum(weights)))

    man = bool(rng.random() < 0.5)
    masculinity = float(np.clip(normal(0.82 if man else 0.18, 0.1), 0, 1))
    age = float(rng.beta(1.3, 1.9))
    melanin = float(rng.random())
    tone = np.array([np.interp(melanin * 4, range(5), _SKIN[:, c]) for c in range(3)], np.float32)
    tone = tone * np.array([normal(1, 0.02), normal(1, 0.02), normal(1, 0.035)], np.float32)
    skin = to_linear(np.clip(tone, 20, 250))

    dark = melanin > 0.5
    grey = float(np.clip((age - 0.55) * 2.2, 0, 0.9))
    if rng.random() < grey:
        hair = to_linear(_HAIR[pick(["grey", "white"], [2, 1])])
    elif dark:
        hair = to_linear(_HAIR[pick(["black", "dark", "brown"], [6, 2, 0.6])])
    else:
        names = ["black", "dark", "brown", "auburn", "light", "blond", "red"]
        hair = to_linear(_HAIR[pick(names, [1, 2, 2, 1, 1.5, 2, 0.9])])
    hair = (hair * np.exp(0.12 * rng.standard_normal(3))).astype(np.float32)
    if dark:
        iris_name = pick(["brown", "dark", "hazel"], [2, 4, 0.6])
    else:
        iris_name = pick(["blue", "grey", "green", "hazel", "brown", "dark"], [3, 1, 1.6, 1.6, 2, 0.7])
    iris = to_linear(_IRIS[iris_name]) * np.float32(np.exp(0.15 * rng.standard_normal()))
    inner = to_linear(_IRIS["hazel"]) if iris_name in ("green", "hazel", "grey") else iris * np.float32(1.5)

    if man:
        styles = [HairStyle.RECEDED, HairStyle.BUZZ, HairStyle.SHORT, HairStyle.FRINGE, HairStyle.CURLY]
        weights = [0.2 + 2.0 * age, 1.6, 4.0, 0.8, 0.7 + 0.6 * dark]
    else:
        styles = [HairStyle.SHORT, HairStyle.FRINGE, HairStyle.CURLY, HairStyle.MEDIUM, HairStyle.LONG]
        weights = [0.5 + age, 0.9, 0.6 + 0.8 * dark, 2.5, 4.5 - 3 * age]
    style = HairStyle(pick([s.value for s in styles], weights))
    beards = [BeardStyle.NONE, BeardStyle.STUBBLE, BeardStyle.MOUSTACHE, BeardStyle.GOATEE, BeardStyle.FULL]
    beard = BeardStyle(pick([b.value for b in beards], [4, 3, 0.7, 1, 2])) if man else BeardStyle.NONE

    lips = skin * np.array([0.92, 0.58, 0.6], np.float32) + np.array([0.035, 0.0, 0.006], np.float32)
    if not man and rng.random() < 0.35:  # lipstick
        lips = lips * np.array([0.95, 0.5, 0.6], np.float32) + np.array([0.07, 0.0, 0.012], np.float32)
    m = masculinity - 0.5
    return Person(
        seed=seed,
        identity=identity,
        masculinity=masculinity,
        age=age,
        melanin=melanin,
        skin=skin,
        redness=float(np.clip(normal(0.5, 0.25), 0.05, 1)),
        oiliness=float(np.clip(normal(0.5, 0.25), 0.05, 1)),
        freckles=float(max(0.0, normal(0.15, 0.4))) * float(melanin < 0.55),
        moles=int(rng.integers(0, 9)),
        temple_width=normal(71 + 3 * m, 3.0),
        cheek_width=normal(69.5 + 3 * m, 3.2),
        jaw_width=normal(56.5 + 7 * m, 4.2),
        chin_width=normal(21 + 8 * m, 3.8),
        chin_y=normal(-112 - 6 * m, 4.5),
        chin_forward=normal(4.0 + 1.5 * m, 2.0),
        forehead=normal(0, 2.5),
        cheekbone=normal(3.0 - 0.8 * m, 1.4),
        neck_width=normal(48 + 11 * m, 2.2),
        eye_x=normal(31.6, 1.5),
        eye_width=normal(14.6, 1.0),
        eye_up=normal(5.3 - 0.8 * m, 0.7),
        eye_down=normal(4.0, 0.45),
        eye_tilt=normal(1.2 - 0.6 * m, 1.1),
        eye_depth=normal(5.5 + 2.5 * m, 1.5),
        crease=float(np.clip(normal(3.4 - 0.8 * m, 1.4), 0.8, 7)),
        bags=float(np.clip(normal(0.2 + 0.7 * age, 0.2), 0, 1.2)),
        iris=iris.astype(np.float32),
        iris_inner=inner.astype(np.float32),
        iris_radius=normal(5.9, 0.2),
        lashes=float(np.clip(normal(0.55 - 0.6 * m, 0.15), 0.15, 1)),
        brow_y=normal(19.5 - 5 * m, 2.2),
        brow_width=normal(19.3, 1.5),
        brow_thickness=normal(6.6 + 3 * m, 1.2),
        brow_arch=normal(3.2 - 2.4 * m, 1.3),
        brow_tilt=normal(1.0 - 1.0 * m, 1.6),
        brow_density=float(np.clip(normal(0.72, 0.2), 0.3, 1)),
        brow_ridge=max(0.0, normal(1.2 + 3 * m, 0.8)),
        nose_y=normal(-38.0, 2.6),
        nose_height=normal(20.5 + 3 * m, 2.2),
        nose_width=normal(16.4 + 2.6 * m + 2.4 * (melanin - 0.5), 1.7),
        nose_bridge=normal(5.6 + 1.0 * m, 0.9),
        nose_hump=normal(0.2, 1.2),
        nose_tip=normal(8.2 + m, 1.0),
        mouth_y=normal(-66.5, 2.6),
        mouth_width=normal(25.6 + 1.4 * m, 2.0),
        upper_lip=max(3.0, normal(7.0 - 1.6 * m + 1.8 * (melanin - 0.4) - 1.5 * age, 1.2)),
        lower_lip=max(4.5, normal(9.2 - 1.4 * m + 1.8 * (melanin - 0.4) - 1.5 * age, 1.3)),
        cupid=float(np.clip(normal(1.1, 0.5), 0, 2.2)),
        mouth_curve=normal(-0.2, 0.9),
        lip_colour=lips.astype(np.float32),
        style=style,
        beard=beard,
        hair=hair,
        hairline=normal(62 + 5 * m + 5 * age * masculinity, 4.0),
        part=float(rng.uniform(-0.7, 0.7)),
        hair_volume=normal(1.0, 0.2),
        waves=float(rng.beta(1.1, 2.4)),
        ears=normal(1.0, 0.15),
    )

"""How a person is pictured: everything that changes from shot to shot."""

from dataclasses import dataclass

import numpy as np

from cfpp.data.draws import generator


@dataclass(frozen=True)
class Shot:
    """Pose in radians, expression in 0..1 unless said, light in the camera frame (x right, y up, z to us)."""

    seed: int
    identity: int
    shot: int
    yaw: float
    pitch: float
    roll: float
    distance: float  # camera, mm
    smile: float  # -0.3 .. 1
    mouth_open: float  # mm between the lips
    brow_raise: float  # mm
    frown: float
    openness: float  # of the lids, about 1
    gaze: tuple[float, float]  # radians, right and up
    light: np.ndarray  # unit vector to the key light
    light_colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    rim: np.ndarray  # unit vector to the rim light
    rim_colour: np.ndarray
    exposure: float
    pupil: float


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    flat = np.cos(elevation)
    return np.array([np.sin(azimuth) * flat, np.sin(elevation), np.cos(azimuth) * flat], np.float32)


def draw_shot(seed: int, identity: int, shot: int) -> Shot:
    """The shot of this number; a function of (seed, identity, shot) alone."""
    rng = generator(seed, "shot", identity, shot)

    def normal(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(rng.standard_normal(), -2.0, 2.0))

    mood = rng.random()
    smile = float(rng.uniform(0.45, 1.0)) if mood < 0.45 else normal(0.0, 0.14)
    if mood < 0.27:
        mouth_open = float(rng.uniform(3.0, 8.5))
    elif mood > 0.86:
        mouth_open = float(rng.uniform(2.0, 11.0))
    else:
        mouth_open = 0.0
    warmth = normal(0.0, 0.5)
    key = np.array([1 + 0.10 * warmth, 1.0, 1 - 0.16 * warmth], np.float32)
    ratio = float(rng.uniform(0.5, 0.86))  # share of the key light
    ambient = np.array([1 - 0.07 * warmth, 1.0, 1 + 0.1 * warmth], np.float32) * np.float32(1 - ratio)
    tint = np.exp(0.10 * rng.standard_normal(3)).astype(np.float32)
    side = 1.0 if rng.random() < 0.5 else -1.0
    rim = float(rng.uniform(0.2, 0.9)) if rng.random() < 0.4 else 0.0
    return Shot(
        seed=seed,
        identity=identity,
        shot=shot,
        yaw=normal(0.0, 0.17),
        pitch=normal(0.0, 0.075),
        roll=normal(0.0, 0.08),
        distance=float(rng.uniform(650, 1800)),
        smile=smile,
        mouth_open=mouth_open,
        brow_raise=normal(0.4, 1.2),
        frown=float(max(0.0, normal(-0.1, 0.4))),
        openness=float(np.clip(normal(1.0, 0.13), 0.62, 1.25)),
        gaze=(normal(0.0, 0.12), normal(0.0, 0.05)),
        light=_direction(side * float(rng.uniform(0.1, 1.1)), float(rng.uniform(0.1, 0.95))),
        light_colour=(key * np.float32(1.6 * ratio)).astype(np.float32),
        sky=(ambient * np.float32(1.15)).astype(np.float32),
        ground=(ambient * np.float32(0.55) * tint).astype(np.float32),
        rim=_direction(-side * float(rng.uniform(1.9, 2.5)), float(rng.uniform(0.0, 0.6))),
        rim_colour=(tint * np.float32(rim)).astype(np.float32),
        exposure=float(np.exp(normal(0.0, 0.13))),
        pupil=float(rng.uniform(0.28, 0.46)),
    )

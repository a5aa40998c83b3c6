"""Hair as a shell over the scalp with strands that flow away from the crown."""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.noise import octaves, smoothstep
from cfpp.data.procedural.person import HairStyle, Person
from cfpp.data.procedural.sampling import sample

# hairline height (mm) at azimuth 0, 25, 45, 60, 72, 82, 92, 110 and 132 degrees, relative to the person's
_ANGLES = np.radians([0, 25, 45, 60, 72, 82, 92, 110, 132])
_LINES = {
    HairStyle.RECEDED: [22, 30, 24, 0, -22, -52, -60, -95, -125],
    HairStyle.BUZZ: [0, -1, -2, -14, -32, -62, -66, -105, -130],
    HairStyle.SHORT: [0, 0, 2, -12, -34, -66, -66, -108, -135],
    HairStyle.FRINGE: [-30, -31, -30, -32, -40, -68, -70, -112, -140],
    HairStyle.CURLY: [0, -2, -4, -16, -36, -66, -66, -112, -145],
    HairStyle.MEDIUM: [1, 3, 2, -10, -34, -70, -80, -130, -170],
    HairStyle.LONG: [1, 3, 2, -10, -34, -70, -80, -130, -170],
}
_VOLUME = {  # thickness (mm) on top and at the sides
    HairStyle.RECEDED: (3, 4),
    HairStyle.BUZZ: (2, 1.2),
    HairStyle.SHORT: (13, 4),
    HairStyle.FRINGE: (12, 7),
    HairStyle.CURLY: (24, 22),
    HairStyle.MEDIUM: (12, 11),
    HairStyle.LONG: (11, 10),
}


@dataclass(frozen=True)
class HairShape:
    """Maps over the surface's grid: thickness (mm) and signed distance inside the hair's outline (mm)."""

    thickness: np.ndarray
    inside: np.ndarray
    rise: float  # by how much the hair lifts the crown, mm


def falls(person: Person) -> bool:
    """Whether the hair hangs beside the face."""
    return person.style in (HairStyle.MEDIUM, HairStyle.LONG)


def end_of_hair(person: Person) -> float:
    """Height (mm) at which hanging hair ends."""
    return -260.0 if person.style is HairStyle.LONG else -118.0


def crown(person: Person) -> np.ndarray:
    """Unit vector from the head's centre to where the strands start."""
    v = np.array([0.55 * np.sin(person.part), 1.0, -0.22], np.float32)
    if person.style in (HairStyle.FRINGE, HairStyle.MEDIUM, HairStyle.LONG):
        v = np.array([0.6 * np.sin(person.part), 1.0, 0.12], np.float32)
    return (v / np.linalg.norm(v)).astype(np.float32)


def hair_shape(person: Person, theta: np.ndarray, y: np.ndarray, radius: np.ndarray) -> HairShape:
    """Hair over a head given as radius [h, w] at azimuths [w] and heights [h]."""
    shape = radius.shape
    rng = generator(person.seed, "hair shape", person.identity)
    line = person.hairline + np.asarray(_LINES[person.style], np.float32)
    if person.style is HairStyle.SHORT:
        line = line + np.float32(4) * np.exp(-(((_ANGLES - 0.55) / 0.25) ** 2))
    hairline = np.interp(np.abs(theta), _ANGLES, line).astype(np.float32)
    part = np.float32(person.part)
    if falls(person):  # the parting opens the forehead; the hair sweeps down away from it
        sweep = float(rng.uniform(20, 46))
        hairline = hairline + 9 - np.float32(sweep) * smoothstep(0.0, 1.15, np.abs(theta - part))
    hairline = hairline + (2.0 * np.sin(theta * 7 + rng.uniform(0, 6))).astype(np.float32)
    inside = np.broadcast_to(y[:, None] - hairline[None, :], shape).astype(np.float32)
    if person.style is HairStyle.RECEDED and rng.random() < 0.55:  # bald above a ring of hair
        inside = np.minimum(inside, (rng.uniform(35, 72) + 6 * np.sin(3 * theta))[None, :] - y[:, None])
    beyond = np.zeros(shape, np.float32)
    if falls(person):  # curtains beside the face, joined smoothly to the hair above
        edge = np.float32(np.radians(rng.uniform(52, 68)))
        wave = (
            np.float32(0.05 * person.waves) * np.sin(y / 14 + rng.uniform(0, 6)).astype(np.float32)[:, None]
        )
        beyond = np.abs(theta)[None, :] - edge - wave - np.float32(0.10) * smoothstep(20, -110, y)[:, None]
        end = y[:, None] - np.float32(end_of_hair(person))
        curtain = np.minimum((beyond + np.float32(0.05)) * 80 - 50 * smoothstep(34, 78, y)[:, None], end)
        blend = np.maximum(26 - np.abs(inside - curtain), 0)
        inside = np.maximum(inside, curtain) + blend * blend / 104
    top, side = _VOLUME[person.style]
    volume = (side + (top - side) * smoothstep(15, 85, y))[:, None] * np.float32(person.hair_volume)
    clumps = octaves(person.seed, ("hair clumps", person.identity), shape, range(3, 7), 0.6)
    rise = float(0.8 * top * person.hair_volume)
    rough = 0.3 if person.style is HairStyle.CURLY else 0.13
    ramp = 12.0 if person.style in (HairStyle.FRINGE, HairStyle.BUZZ, HairStyle.CURLY) else 26.0
    thickness = volume * smoothstep(-1, ramp, inside) * np.clip(1 + np.float32(rough) * clumps, 0.3, 1.8)
    # the shell over the crown is the skull pulled upwards
    pulled = np.where(y > 40, 40 + (y - 40) * (81 / (81 + rise)), y)
    row = np.interp(-pulled, -y, np.arange(len(y))).astype(np.float32)
    columns = np.broadcast_to(np.arange(len(theta), dtype=np.float32), shape)
    higher = cv2.remap(
        radius, columns, np.ascontiguousarray(np.broadcast_to(row[:, None], shape)), cv2.INTER_LINEAR
    )
    thickness = (thickness * smoothstep(121 + rise, 100, y)[:, None]) + (higher - radius) * smoothstep(
        -1, ramp, inside
    )
    if not falls(person) and person.style is not HairStyle.CURLY:  # the ears stay free
        v = (y[:, None] + 10) / (27 * person.ears)
        reach = np.abs(theta)[None, :] - (1.47 + 0.10 * v)
        outside = np.maximum(np.abs(v) * 28 - 30, np.maximum(-reach, reach - 0.5) * 80)
        inside = np.minimum(inside, outside)
        thickness = thickness * smoothstep(-3, 5, outside)
    if falls(person):
        outer = np.interp(y, [-200, -120, -60, 20, 60], [96, 93, 90, 87, 82]).astype(np.float32)[:, None]
        outer = outer + np.float32(5 * (person.hair_volume - 0.6)) + np.float32(2.2) * clumps
        end = y[:, None] - np.float32(end_of_hair(person))
        low = smoothstep(75, 25, y)[:, None] * smoothstep(-3, 9, end)
        hang = np.maximum(outer - radius, 0) * smoothstep(0.0, 0.13, beyond) * low
        thickness = np.maximum(thickness, hang)
    return HairShape(thickness.astype(np.float32), inside, rise)


def strand_field(
    person: Person, point: np.ndarray, normal: np.ndarray, detail: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strand texture of hair pixels.

    Args:
        person: whose hair.
        point: [3, n] head frame, mm.
        normal: [3, n].
        detail: finest octave of the strands' width that is drawn.

    Returns:
        strand brightness [n] about 0, tangent [3, n] from root to tip, raggedness [n] about 0 for the edges
        of the hair.
    """
    axis = crown(person)
    first = np.cross(axis, np.array([0, 0, 1], np.float32))
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    high = point[1] - np.float32(15)
    rise, east, north = (v[0] * point[0] + v[1] * high + v[2] * point[2] for v in (axis, first, second))
    azimuth = np.arctan2(east, north)
    along = np.arctan2(np.sqrt(east * east + north * north), rise) * np.float32(90)
    curl = person.waves if person.style is not HairStyle.CURLY else 1.0
    wave = np.sin(along / (17 - 8 * curl) + 3 * np.sin(azimuth * 3)) * (0.012 + 0.05 * curl)
    c = (azimuth + wave.astype(np.float32)) / (2 * np.pi) + 0.5
    strands = np.zeros(point.shape[1], np.float32)
    ragged = np.zeros_like(strands)
    for level in range(4, detail + 1):
        wide = 2**level
        tall = {HairStyle.CURLY: max(16, wide // 3), HairStyle.BUZZ: wide}.get(person.style, 8)
        cells = generator(person.seed, "strands", person.identity, level).standard_normal((tall, wide))
        cells = np.concatenate([cells, cells[:, :2]], 1).astype(np.float32)
        value = sample(cells, c * np.float32(wide), along * np.float32(tall / 300))
        strands += value * np.float32(0.62 if level > 5 else 0.45)
        if 5 <= level <= 8:
            ragged += value * np.float32(0.5)
    axis = axis[:, None]
    tangent = normal * (normal * axis).sum(0) - axis
    tangent = tangent / np.maximum(np.sqrt((tangent * tangent).sum(0)), np.float32(1e-3))
    return strands, tangent, ragged


def hair_cover(person: Person, inside: np.ndarray, ragged: np.ndarray) -> np.ndarray:
    """Coverage 0..1 from the distance inside the hair's outline (mm), frayed by the strands."""
    fray = {HairStyle.FRINGE: 6.0, HairStyle.BUZZ: 2.5, HairStyle.CURLY: 4.0}.get(person.style, 3.5)
    cover = smoothstep(-3.5, 3.5, inside + np.float32(fray) * ragged)
    return cover * np.float32(0.86) if person.style is HairStyle.BUZZ else cover

"""From a person and a shot to a picture with its exact annotations."""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.procedural import face as classes
from cfpp.data.procedural.background import backdrop, clothes
from cfpp.data.procedural.camera import Camera, align, cast
from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.eyes import lids, shade_eye
from cfpp.data.procedural.face import Face
from cfpp.data.procedural.hair import end_of_hair, falls, hair_cover, strand_field
from cfpp.data.procedural.landmarks import five, points68
from cfpp.data.procedural.light import Lighting, occlusion_map, shade_hair, shade_skin, shadow_map, unit
from cfpp.data.procedural.mouth import paint_mouth
from cfpp.data.procedural.noise import smoothstep
from cfpp.data.procedural.person import HairStyle, draw_person
from cfpp.data.procedural.sampling import sample
from cfpp.data.procedural.shot import draw_shot
from cfpp.data.procedural.skin import build_skin
from cfpp.data.procedural.strands import StrandCanvas, draw_beard, draw_brows, draw_lashes, hair_paths
from cfpp.data.procedural.surface import Grid, Surface, build_surface, ear_height, ear_root


@dataclass(frozen=True)
class Sampling:
    """How finely a picture of a size is computed."""

    side: int  # rendered side, reduced to the size at the end
    geometry: Grid
    skin: Grid
    strands: int  # finest octave across the hair

    @classmethod
    def of(cls, size: int) -> "Sampling":
        if size <= 160:
            return cls(2 * size, Grid(256, 336), Grid(336, 336), 9)
        if size <= 256:
            return cls(2 * size, Grid(352, 464), Grid(640, 640), 10)
        return cls(size + size // 2, Grid(448, 592), Grid(1088, 1088), 11)


def render(seed: int, identity: int, shot: int, size: int) -> Face:
    """Render one face.

    The same (seed, identity, shot) gives the same face at every size, and the same bytes at the same size,
    whatever was rendered before.

    Args:
        seed: of the whole set.
        identity: number of the person.
        shot: number of the picture of that person.
        size: side of the picture, pixels, 32 to 512.

    Raises:
        ValueError: the size is out of range.
    """
    if not 32 <= size <= 512:
        raise ValueError(f"size must be 32 to 512, got {size}")
    person, pose = draw_person(seed, identity), draw_shot(seed, identity, shot)
    curves = Curves(person, pose)
    sampling = Sampling.of(size)
    surface = build_surface(person, curves, sampling.geometry)
    points = points68(surface, curves)
    camera = align(pose, five(points))
    linear, parsing = _Painter(curves, surface, camera, sampling).paint()
    shown = _tone(linear, pose.exposure).reshape(3, sampling.side, sampling.side)
    planes = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in shown]
    nearest = ((np.arange(size) + 0.5) * sampling.side / size).astype(int)
    flat = camera.project(points) * size - 0.5
    return Face(
        picture=np.clip(np.round(np.stack(planes, -1)), 0, 255).astype(np.uint8),
        landmarks5=camera.project(five(points)) * size - 0.5,
        landmarks68=flat,
        parsing=parsing.reshape(sampling.side, sampling.side)[np.ix_(nearest, nearest)],
        identity=f"p{identity:05d}",
        key=f"p{identity:05d}s{shot:02d}",
    )


def _tone(linear: np.ndarray, exposure: float) -> np.ndarray:
    """Linear light to display values 0..255: a shoulder, then the display's gamma."""
    x = np.maximum(linear * np.float32(exposure), 0)
    bright = np.maximum(x - np.float32(0.55), 0)
    x = np.minimum(x, np.float32(0.55)) + np.float32(0.45) * (1 - cv2.exp(bright * np.float32(-1 / 0.45)))
    return np.asarray(cv2.pow(x, 1 / 2.2) * np.float32(255))


def _mix(under: np.ndarray, over: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return np.asarray(under + (over - under) * cover)


class _Painter:
    """The picture as flat lists of pixels: all that the head covers, and of these the skin and the hair."""

    def __init__(self, curves: Curves, surface: Surface, camera: Camera, sampling: Sampling) -> None:
        self.curves, self.surface, self.camera, self.sampling = curves, surface, camera, sampling
        self.person, self.pose, self.side = curves.person, curves.shot, sampling.side
        self.turn = camera.turn.astype(np.float32)
        self.lighting = Lighting.of(self.pose, self.turn)
        self.origin, self.slope, self.plane = camera.rays(self.side)
        hit, self.depth = cast(surface, camera, self.origin, self.slope, self.side)
        self.head = np.flatnonzero(hit)
        self.rays = self.origin[:, self.head], self.slope[:, self.head]
        self.point = self.rays[0] + self.depth[self.head] * self.rays[1]
        self.theta = np.arctan2(self.point[0], self.point[2])
        self.y = self.point[1]
        at = surface.grid.index(self.theta, self.y)
        self.a, self.neck, self.inside = (
            sample(field, *at) for field in (surface.across, surface.neck, surface.hair.inside)
        )
        self.normal = np.stack([sample(field, *at) for field in surface.normal])
        self.visible = sample(shadow_map(surface, self.lighting.key), *at)
        self.occlusion = sample(occlusion_map(surface), *at)
        self.view = unit(self.rays[1])
        self.classes = np.full(len(self.head), classes.SKIN, np.uint8)

    def paint(self) -> tuple[np.ndarray, np.ndarray]:
        """Linear RGB [3, side * side] and classes [side * side]."""
        scene, parsing = self._scene()
        cover, lines, tangent = self._hair()
        colour = np.zeros((3, len(self.head)), np.float32)
        skin = np.flatnonzero(cover < 0.99)
        colour[:, skin] = self._skin(skin)
        self._lashes(colour)
        where, cloth, cloth_colour = self.cloth
        on_neck = np.zeros(self.side**2, np.float32)
        on_neck[where] = cloth
        dressed = on_neck[self.head] * (self.neck > 0.5)
        full = np.zeros((3, self.side**2), np.float32)
        full[:, where] = cloth_colour
        colour = _mix(colour, full[:, self.head], dressed)
        self.classes[dressed > 0.5] = classes.CLOTH
        hair = np.flatnonzero(cover > 0.01)
        if len(hair):
            shine = lines[hair]
            albedo = self.person.hair[:, None] * np.exp(np.float32(0.34) * shine)
            locks = shade_hair(
                albedo,
                tangent[:, hair],
                self.normal[:, hair],
                self.view[:, hair],
                self.visible[hair],
                self.occlusion[hair],
                shine,
                self.lighting,
            )
            colour[:, hair] = _mix(colour[:, hair], locks, cover[hair])
            self.classes[cover > 0.5] = classes.HAIR
        scene[:, self.head] = colour
        parsing[self.head] = self.classes
        self._loose(scene, cover)
        return scene, parsing

    def _scene(self) -> tuple[np.ndarray, np.ndarray]:
        """Backdrop, hair behind the neck, clothes."""
        person, pose, side = self.person, self.pose, self.side
        scene = np.ascontiguousarray(backdrop(pose, side).reshape(-1, 3).T)
        parsing = np.full(side * side, classes.BACKGROUND, np.uint8)
        if falls(person):
            point = self.origin - 45 * self.slope
            dome = np.sqrt(np.clip(1 - (np.maximum(point[1] + 5, 0) / 62) ** 2, 0, 1))
            inside = (92 + 5 * person.hair_volume) * dome - np.abs(point[0])
            inside = np.minimum(inside, point[1] - end_of_hair(person))
            near = np.flatnonzero(inside > -14)
            forward = np.zeros((3, len(near)), np.float32)
            forward[2] = 1
            lines, _, ragged = strand_field(person, point[:, near], forward, self.sampling.strands)
            cover = smoothstep(-2, 2, inside[near] + 4 * ragged)
            light = (pose.sky * np.float32(0.32) + pose.ground * np.float32(0.1)) * person.hair
            scene[:, near] = _mix(scene[:, near], light[:, None] * np.exp(np.float32(0.4) * lines), cover)
            parsing[near[cover > 0.5]] = classes.HAIR
        self.cloth = clothes(pose, self.plane, side, person.masculinity < 0.5)
        where, cover, colour = self.cloth
        scene[:, where] = _mix(scene[:, where], colour, cover)
        parsing[where[cover > 0.5]] = classes.CLOTH
        return scene, parsing

    def _hair(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coverage [n], strand brightness [n] and direction [3, n] over the head's pixels."""
        near = np.flatnonzero(self.inside > -16)
        lines, ragged = np.zeros(len(self.head), np.float32), np.zeros(len(self.head), np.float32)
        tangent = np.zeros((3, len(self.head)), np.float32)
        lines[near], tangent[:, near], ragged[near] = strand_field(
            self.person, self.point[:, near], self.normal[:, near], self.sampling.strands
        )
        return hair_cover(self.person, self.inside, ragged), lines, tangent

    def _skin(self, k: np.ndarray) -> np.ndarray:
        """Light from the skin and all that is painted on it, [3, m], for the head's pixels `k`."""
        person, curves, pose = self.person, self.curves, self.pose
        a, y, theta = self.a[k], self.y[k], self.theta[k]
        pixel = self.camera.pixel(self.side)
        texture = build_skin(person, curves, self.surface, self.sampling.skin)
        at = texture.grid.index(theta, y)
        albedo = np.stack([sample(field, *at) for field in texture.albedo])
        relief = [sample(field, *at) for field in texture.slope]
        gloss, occlusion = sample(texture.gloss, *at), self.occlusion[k]
        front = np.abs(theta) < 1.4
        kinds = self._regions(k)

        eyes = {}
        for side in (-1, 1):
            w = np.flatnonzero(front & (np.abs(a - side * person.eye_x) < 26) & (np.abs(y) < 18))
            part = lids(curves, side, a[w], y[w], pixel)
            eyes[side] = (w, part.opening)
            shut = 1 - part.opening
            albedo[:, w] *= (1 - 0.42 * part.crease * shut) * (
                1 - (0.2 + 0.4 * person.lashes) * part.lashes * shut
            )
            albedo[:, w] *= 1 - np.array([[0.0], [0.28], [0.32]], np.float32) * (0.6 * part.rim * shut)
            kinds[w[part.opening > 0.5]] = classes.EYE_L if side < 0 else classes.EYE_R
        lips = np.flatnonzero(front & (np.abs(a) < 45) & (np.abs(y - person.mouth_y) < 36))
        mouth = paint_mouth(curves, a[lips], y[lips], pixel)
        cover = np.clip(mouth.upper + mouth.lower, 0, 1)
        tone = np.exp(np.float32(0.16) * mouth.streaks) * np.where(mouth.upper > mouth.lower, 0.82, 1.0)
        albedo[:, lips] = _mix(albedo[:, lips], person.lip_colour[:, None] * tone, 0.88 * cover) * (
            1 - 0.72 * mouth.line
        )
        gloss[lips] += (np.float32(0.9 + 0.5 * person.oiliness) - gloss[lips]) * cover
        kinds[lips[mouth.upper > 0.5]] = classes.UPPER_LIP
        kinds[lips[mouth.lower > 0.5]] = classes.LOWER_LIP
        kinds[lips[mouth.inside > 0.5]] = classes.MOUTH
        nose = np.flatnonzero(front & (np.abs(a) < 16) & (np.abs(y - person.nose_y + 7.6) < 7))
        hole = ((np.abs(a[nose]) - 6.6) / 2.7) ** 2 + ((y[nose] - person.nose_y + 7.6) / 1.35) ** 2
        hole = np.exp(-0.5 * hole**1.3).astype(np.float32)
        albedo[:, nose] *= 1 - np.float32(0.86) * hole
        occlusion[nose] *= 1 - np.float32(0.5) * hole

        shade = curves.brow_shade(a, y) * (np.float32(0.55 * person.brow_density) * front)
        brow_colour = np.minimum(person.hair, 0.2)[:, None]
        albedo = _mix(albedo, np.minimum(albedo, brow_colour * np.float32(1.4)), shade)
        strokes = StrandCanvas()
        draw_brows(strokes, curves, self.surface, self.camera)
        draw_beard(strokes, curves, self.surface, self.camera)
        full, cover = self._on_head(strokes)
        full, cover = full[:, k], cover[k]
        albedo = _mix(albedo, full, cover)
        gloss = gloss * (1 - np.float32(0.8) * cover)
        brow = front & (np.maximum(cover, 2 * shade) > 0.3) & self._brow_area(a, y)
        kinds[brow & (a < 0)] = classes.BROW_L
        kinds[brow & (a > 0)] = classes.BROW_R

        smooth, visible = self.normal[:, k], self.visible[k]
        tilt = np.stack([np.cos(theta) * relief[0], relief[1], -np.sin(theta) * relief[0]])
        light = shade_skin(
            albedo, unit(smooth - tilt), smooth, self.view[:, k], visible, occlusion, gloss, self.lighting
        )
        deep = pose.sky[:, None] * np.float32(0.55) + pose.light_colour[:, None] * (
            0.25 + 0.4 * visible[lips]
        )
        light[:, lips] = _mix(light[:, lips], mouth.interior * deep, mouth.inside)
        for side, (w, opening) in eyes.items():
            w, opening = w[opening > 0], opening[opening > 0]
            rays = self.rays[0][:, k[w]], self.rays[1][:, k[w]]
            ball = shade_eye(
                self.surface, curves, side, rays, (a[w], y[w]), self.turn, visible[w], self.lighting
            )
            light[:, w] = _mix(light[:, w], ball, opening)
        self.classes[k] = kinds
        return light

    def _regions(self, k: np.ndarray) -> np.ndarray:
        """Classes of the bare skin: face, nose, ears, neck."""
        person, a, y, theta = self.person, self.a[k], self.y[k], self.theta[k]
        kinds = np.full(len(k), classes.SKIN, np.uint8)
        v = ear_height(person, y)
        ear = (np.abs(theta) > ear_root(v)) & (np.abs(v) < 1) & (not falls(person))
        kinds[ear & (theta < 0)], kinds[ear & (theta > 0)] = classes.EAR_L, classes.EAR_R
        kinds[self.neck[k] > 0.5] = classes.NECK
        low, wing = person.nose_y - 9.5, person.nose_width
        heights = [low, person.nose_y - 3, person.nose_y + 6, -8, 6]
        half = np.interp(y, heights, [0.8 * wing, wing + 1, wing - 2, 8, 5])
        kinds[(y > low) & (y < 6) & (np.abs(a) < half) & (np.abs(theta) < 1.4)] = classes.NOSE
        return kinds

    def _brow_area(self, a: np.ndarray, y: np.ndarray) -> np.ndarray:
        line_a, line_y = self.curves.brow(np.linspace(-0.05, 1.1, 24), 1)
        middle = np.interp(np.abs(a), line_a, line_y)
        within = (np.abs(a) > line_a[0] - 2) & (np.abs(a) < line_a[-1] + 3)
        return np.asarray(within & (np.abs(y - middle) < 0.8 * self.person.brow_thickness + 1))

    def _on_head(self, canvas: StrandCanvas) -> tuple[np.ndarray, np.ndarray]:
        """Colour [3, n] and coverage [n] of drawn hairs on the head's pixels."""
        where, colour, cover = canvas.reduced(self.side)
        full, alpha = np.zeros((3, self.side**2), np.float32), np.zeros(self.side**2, np.float32)
        full[:, where], alpha[where] = colour, cover
        return full[:, self.head], alpha[self.head]

    def _lashes(self, colour: np.ndarray) -> None:
        canvas = StrandCanvas()
        draw_lashes(canvas, self.curves, self.surface, self.camera)
        ink, cover = self._on_head(canvas)
        w = np.flatnonzero(cover)
        colour[:, w] = _mix(colour[:, w], ink[:, w], cover[w])

    def _loose(self, scene: np.ndarray, cover: np.ndarray) -> None:
        """Draw single hairs over the picture, each as bright as the hair where it starts."""
        if self.person.style in (HairStyle.RECEDED, HairStyle.BUZZ):
            return
        side = self.side
        paths, tones = hair_paths(
            self.person, self.surface, self.camera, self.depth.reshape(side, side), self.pose.shot
        )
        at = np.clip((paths[:, 0] * side).astype(int), 0, side - 1)
        root = at[:, 1] * side + at[:, 0]
        on_hair = np.zeros(side * side, bool)
        on_hair[self.head[cover > 0.5]] = True
        rooted = on_hair[root]
        paths, tones, light = paths[rooted], tones[rooted], scene[:, root[rooted]]
        canvas = StrandCanvas()
        order = np.argsort(light.mean(0) * tones, kind="stable")
        for group in np.array_split(order, 8):
            if len(group):
                canvas.draw(paths[group], (light[:, group] * tones[group]).mean(1), 0.5)
        where, ink, alpha = canvas.reduced(side)
        scene[:, where] = _mix(scene[:, where], ink, alpha)

"""Draws a head, larger than needed, on a canvas of its own: skin, eyes, lips, hair, glasses, hats. Colours: RGB, 0–255."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from retinalib.landmarks import WFLW_98 as SCHEMA
from retinalib.rendered.head import EYE_RADIUS, IRIS_RADIUS, RINGS, Head, height, landmarks_2d

_SHIFT = 4  # fractional bits of OpenCV's drawing


@dataclass(frozen=True)
class Look:
    skin: tuple[float, float, float] = (205, 160, 135)
    hair: tuple[float, float, float] = (60, 42, 30)
    iris: tuple[float, float, float] = (90, 65, 45)
    lips: tuple[float, float, float] = (170, 95, 90)
    hair_style: str = "short"  # bald, short, long
    fringe: float = 0.0  # 0 … 1, down to the brow
    beard: float = 0.0  # 0 … 1
    make_up: float = 0.0  # 0 … 1
    glasses: str = "none"  # none, clear, sun
    hat: tuple[float, float, float] | None = None
    blemish: float = 0.05  # of the skin


@dataclass(frozen=True)
class Light:
    """A key light (direction towards it, camera frame), ambient light and the colour of both."""

    direction: tuple[float, float, float] = (-0.4, -0.5, 0.77)
    ambient: float = 0.5
    key: float = 0.6
    gloss: float = 0.12
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels in OpenCV's fixed point, whose 0, 0 is the middle of the first one."""
    return np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)


def fill(canvas: np.ndarray, points: np.ndarray, colour: object) -> None:
    """A polygon given in pixels with the corner of the first pixel at 0, 0."""
    cv2.fillPoly(canvas, [_fixed(points)], colour, cv2.LINE_AA, _SHIFT)


def _line(canvas: np.ndarray, points: np.ndarray, colour: object, width: float, closed: bool = False) -> None:
    cv2.polylines(canvas, [_fixed(points)], closed, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def _smooth(points: np.ndarray, closed: bool = True, rounds: int = 2) -> np.ndarray:
    """Chaikin's corner cutting with the corners kept: a curve through the neighbourhood of its points."""
    for _ in range(rounds):
        following = np.roll(points, -1, 0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * following, 0.25 * before + 0.75 * following], 1).reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


def _circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _spot(x: np.ndarray, y: np.ndarray, middle: tuple[float, float], width: float, height: float) -> np.ndarray:
    return np.exp(-(((x - middle[0]) / width) ** 2 + ((y - middle[1]) / height) ** 2))


class Painter:
    """One head on its canvas, at ``scale`` pixels a unit, seen from ``distance`` units. colour: (h, w, 3) uint8; mask: (h, w)
    uint8, what the head covers; origin: (2,), the head's, and points: (98, 2), the landmarks, in the canvas."""

    def __init__(self, head: Head, look: Look, light: Light, scale: float, distance: float, rng: np.random.Generator) -> None:
        self.head, self.look, self.light, self.scale, self.distance, self.rng = head, look, light, scale, distance, rng
        self.rotation = head.rotation
        hull = head.project(head.surface.reshape(-1, 3), scale, distance)
        margin = (0.75 if look.hair_style == "long" or look.hat is not None else 0.3) * scale
        low = np.floor(hull.min(0) - margin)
        self.width, self.height = (np.ceil(hull.max(0) + margin) - low).astype(int)
        self.origin = -low  # of the head, in the canvas
        self.colour = np.zeros((self.height, self.width, 3), np.uint8)
        self.mask = np.zeros((self.height, self.width), np.uint8)
        self.points = landmarks_2d(head, scale, distance) + self.origin

    def place(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) head frame to canvas pixels."""
        return self.head.project(points, self.scale, self.distance) + self.origin

    def paint(self) -> None:
        """Draws all parts, the farthest first."""
        self._hair_behind()
        near = -1 if self.rotation[2, 0] < 0 else 1  # the side of the head that is turned to the camera
        self._ear(-near)
        self._skin()
        if abs(self.rotation[2, 0]) > 0.2:
            self._ear(near)
        self._features()
        if self.look.hat is not None:
            self._hat()

    def forehead(self) -> np.ndarray:
        """(5, 2) points up to the hairline, which belong to the face's box."""
        x = np.linspace(-0.5, 0.5, 5)
        y = -0.62 + 0.3 * x**2
        return self.place(np.column_stack([x, y, height(x, y)]))

    def _tone(self, colour: object, brightness: float = 1.0) -> tuple[float, float, float]:
        light = (self.light.ambient + 0.6 * self.light.key) * brightness
        return tuple(float(v) for v in np.clip(np.asarray(colour) * light * np.asarray(self.light.tint), 0, 255))

    def _both(self, points: np.ndarray, colour: object) -> None:
        fill(self.colour, points, colour)
        fill(self.mask, points, 255)

    def _hair_behind(self) -> None:
        if self.look.hair_style != "long":
            return
        ring = self.head.surface[RINGS + 1]
        high = ring[ring[:, 1] < 0.3] * [1.22, 1.12, 1.0]
        drop = self.rng.uniform(1.2, 2.1)
        low = np.array([[1.15, drop, -0.7], [0.6, drop + 0.2, -0.8], [-0.6, drop + 0.2, -0.8], [-1.15, drop, -0.7]])
        outline = cv2.convexHull(self.place(np.concatenate([high, low])).astype(np.float32))[:, 0]
        self._both(_smooth(outline.astype(float)), self._tone(self.look.hair, 0.75))

    def _ear(self, side: int) -> None:
        if self.look.hair_style == "long":
            return
        cos, sin = _circle(20).T
        outer = np.column_stack([np.full(20, side * 0.88), 0.16 + 0.24 * sin, -0.84 + 0.13 * cos])
        outer[:, 0] += side * 0.045 * (1 - cos)
        self._both(self.place(outer), self._tone(self.look.skin, 0.85))
        middle = outer.mean(0)
        self._both(self.place((outer - middle) * 0.55 + middle), self._tone(self.look.skin, 0.65))

    def _shade(self) -> tuple[np.ndarray, np.ndarray]:
        """Per surface vertex: RGB (R, T, 3) and camera-frame points (R, T, 3)."""
        surface = self.head.surface
        turned = surface @ self.rotation.T
        along = np.roll(turned, -1, 1) - np.roll(turned, 1, 1)
        out = np.gradient(turned, axis=0)
        normals = np.cross(along, out)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
        if (self.rotation @ [0, 0, 1.0]) @ normals[:5].mean((0, 1)) < 0:  # the middle of the face tells outside from inside
            normals = -normals
        light = np.asarray(self.light.direction) / np.linalg.norm(self.light.direction)
        half = light + [0, 0, 1]
        half /= np.linalg.norm(half)
        lambert = np.clip(normals @ light, 0, None)
        shine = np.clip(normals @ half, 0, None) ** 14 * self.light.gloss
        x, y = surface[..., 0], surface[..., 1]
        albedo = np.broadcast_to(np.asarray(self.look.skin, float), turned.shape).copy()
        flush = _spot(np.abs(x), y, (0.45, 0.41), 0.2, 0.18) + 0.6 * _spot(x, y, (0, 0.41), 0.15, 0.11)  # cheeks and nose
        albedo *= 1 + flush[..., None] * np.array([0.03, -0.06, -0.05]) * (1 + 2.5 * self.look.make_up)
        if self.look.beard:
            jaw = np.clip((y - 0.57) / 0.14, 0, 1) * np.clip((y - 0.57 + (np.abs(x) - 0.3) * 1.1) / 0.28, 0, 1)
            jaw = np.maximum(jaw, np.exp(-((x / 0.28) ** 4 + ((y - 0.56) / 0.055) ** 2)))
            albedo += (np.asarray(self.look.hair) - albedo) * (self.look.beard * jaw * (y < 1.5))[..., None]
        inside, hair = (np.arange(len(x)) < RINGS)[:, None], np.zeros_like(x)
        if self.look.hair_style != "bald":
            line = -0.62 + 0.34 * self.look.fringe - 0.25 * np.abs(x) * (self.look.fringe < 0.4)
            above = np.clip((line + 0.2 * np.abs(x) ** 2 - y) / 0.07, 0, 1)
            temples = np.clip((0.25 if self.look.hair_style == "short" else 1.6) - y, 0, 0.1) / 0.1
            hair = np.where(inside, above, np.maximum(above, temples))
        albedo += (np.asarray(self.look.hair) - albedo) * hair[..., None]
        brightness = self.light.ambient + self.light.key * lambert
        socket = 1 - 0.16 * _spot(np.abs(x), y, (0.33, -0.02), 0.15, 0.09)
        under = 1 - 0.3 * _spot(x, y, (0, 0.52), 0.16, 0.04) - 0.2 * _spot(x, y, (0, 0.96), 0.2, 0.05)  # nose and lower lip
        brightness = brightness * np.where(inside, socket * under, 1.0)
        rgb = albedo * brightness[..., None] + 255 * shine[..., None] * (1 - hair[..., None] * 0.6)
        return np.clip(rgb * np.asarray(self.light.tint), 0, 255), turned

    def _skin(self) -> None:
        """Draws the visible quadrilaterals, the farthest first, and softens them."""
        rgb, turned = self._shade()
        flat = self.place(self.head.surface.reshape(-1, 3)).reshape(*turned.shape[:2], 2)

        def corners_of(grid: np.ndarray) -> np.ndarray:
            following = np.roll(grid, -1, 1)
            return np.stack([grid[:-1], following[:-1], following[1:], grid[1:]], 2).reshape(-1, 4, *grid.shape[2:])

        quads, colours, depth = corners_of(flat), corners_of(rgb).mean(1), corners_of(turned[..., 2:]).mean((1, 2))
        a, b = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
        area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        facing = np.flatnonzero(area * np.median(np.sign(area[:240])) > 0)  # as in the middle of the face
        order = facing[np.argsort(depth[facing])]
        self.fixed, self.depth = _fixed(quads[order]), depth[order]  # what hides features that lie behind
        skin, cover = np.zeros_like(self.colour), np.zeros_like(self.mask)
        middle = self.place(self.head.surface[0])
        for corners, colour in zip(self.fixed, colours[order].tolist(), strict=True):
            cv2.fillConvexPoly(skin, corners, colour, cv2.LINE_8, _SHIFT)
            cv2.fillConvexPoly(cover, corners, 255, cv2.LINE_8, _SHIFT)
        if (self.rotation @ [0, 0, 1.0])[2] > 0:
            fill(skin, middle, rgb[0].mean(0).tolist())
            fill(cover, middle, 255)
        sigma = max(0.3, 0.028 * self.scale)
        weight = cv2.GaussianBlur(cover, (0, 0), sigma).astype(np.float32)[..., None] / 255
        soft = cv2.GaussianBlur(skin, (0, 0), sigma).astype(np.float32) / np.maximum(weight, 0.05)
        noise = self.rng.standard_normal((self.height // 6 + 2, self.width // 6 + 2)).astype(np.float32)
        coarse = cv2.resize(noise, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        fine = self.rng.standard_normal((self.height, self.width)).astype(np.float32)
        soft *= (1 + self.look.blemish * (0.6 * coarse + 0.5 * fine))[..., None]
        alpha = cover.astype(np.float32)[..., None] / 255
        self.colour[:] = np.clip(self.colour * (1 - alpha) + soft * alpha, 0, 255)
        np.maximum(self.mask, cover, out=self.mask)

    def _layer(self, points: np.ndarray, draw: Callable[[np.ndarray], None]) -> None:
        """Draws a feature onto the skin, hidden where nearer skin lies before it. points: (N, 3) of the head frame."""
        turned = points @ self.rotation.T
        nearer = self.fixed[self.depth > turned[:, 2].max() + 0.1]
        low = np.floor(self.place(points).min(0) - 0.1 * self.scale).astype(int).clip(0)
        high = np.ceil(self.place(points).max(0) + 0.1 * self.scale).astype(int)
        view = self.colour[low[1] : high[1], low[0] : high[0]]
        if not view.size:
            return
        before = view.copy()
        draw(self.colour)
        corners = nearer / (1 << _SHIFT) + 0.5
        close = ((corners.max(1) > low) & (corners.min(1) < high)).all(1)
        if close.any():
            hidden = np.zeros(view.shape[:2], np.uint8)
            for quad in nearer[close]:
                cv2.fillConvexPoly(hidden, quad - (low << _SHIFT).astype(np.int32), 255, cv2.LINE_8, _SHIFT)
            view[hidden > 0] = before[hidden > 0]

    def _features(self) -> None:
        points, regions = self.head.landmarks, SCHEMA.regions
        for name in ("right brow", "left brow"):
            region = list(regions[name])
            if self._turned_to(points[region]):
                self._layer(points[region], lambda canvas, r=region: self._brow(canvas, r))
        for number, eye in enumerate((SCHEMA.right_eye, SCHEMA.left_eye)):
            if self._turned_to(points[list(eye.lids)]):
                self._layer(points[list(eye.lids)], lambda canvas, n=number: self._eye(canvas, n))
        if self.rotation[2, 2] > 0:
            self._layer(points[list(regions["outer lips"] + regions["inner lips"])], self._mouth)
            self._layer(points[list(regions["nose"])], self._nose)
        if self.look.glasses != "none":
            self._glasses()

    def _turned_to(self, points: np.ndarray) -> bool:
        """Whether the skin at a feature faces the camera: its normal leans outward with its place on the head."""
        middle = points.mean(0)
        normal = np.array([1.1 * middle[0], 0.15 * middle[1], 0.9])
        return bool((self.rotation @ normal)[2] > 0.08)

    def _brow(self, canvas: np.ndarray, region: list[int]) -> None:
        outline = self.points[region]
        colour = np.asarray(self.look.hair) * 0.8 if self.look.hair_style != "bald" else np.asarray(self.look.skin) * 0.4
        under = canvas.copy()
        fill(canvas, _smooth(outline), self._tone(colour))
        strength = 0.65 + 0.35 * self.look.make_up
        cv2.addWeighted(canvas, strength, under, 1 - strength, 0, canvas)

    def _eye(self, canvas: np.ndarray, number: int) -> None:
        eye, points = (SCHEMA.right_eye, SCHEMA.left_eye)[number], self.points
        upper, lower = (points[[eye.outer, *lid, eye.inner]] for lid in (eye.upper, eye.lower))
        gap = np.linalg.norm(points[list(eye.upper)] - points[list(eye.lower)], axis=1).mean()
        line = max(1.0, 0.022 * self.scale)
        if self.look.make_up > 0.3:
            lift = (upper.mean(0) - points[list(eye.lower)].mean(0)) * 0.7
            shadow = np.asarray(self.look.skin) * [0.6, 0.5, 0.65]
            fill(canvas, _smooth(np.concatenate([upper, (upper + lift)[::-1]])), self._tone(shadow))
        if gap > 0.06 * np.linalg.norm(points[eye.outer] - points[eye.inner]):
            self._eyeball(canvas, number, _smooth(points[list(eye.lids)], rounds=1))
        _line(canvas, _smooth(upper, closed=False), self._tone((45, 28, 24)), line * (1.2 + self.look.make_up))
        if self.scale > 50:  # lashes, else under a pixel
            roots = _smooth(upper, closed=False)
            away = roots - (2 * lower.mean(0) - upper.mean(0))
            away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-9
            length = (0.03 + 0.03 * self.look.make_up) * self.scale
            for ends in np.stack([roots, roots + away * length], 1)[2::2]:
                _line(canvas, ends, self._tone((40, 26, 22)), 1)
        _line(canvas, _smooth(lower, closed=False), self._tone(np.asarray(self.look.skin) * 0.62), line * 0.6)
        crease = _smooth(upper + (upper.mean(0) - lower.mean(0)) * 0.25 + (points[eye.upper[1]] - lower.mean(0)) * 0.35, False)
        _line(canvas, crease, self._tone(np.asarray(self.look.skin) * 0.72), line * 0.6)

    def _eyeball(self, canvas: np.ndarray, number: int, outline: np.ndarray) -> None:
        low, high = np.floor(outline.min(0) - 2).astype(int).clip(0), np.ceil(outline.max(0) + 2).astype(int)
        patch = canvas[low[1] : high[1], low[0] : high[0]]
        if not patch.size:
            return
        inside, ball = np.zeros(patch.shape[:2], np.uint8), np.empty_like(patch)
        fill(inside, outline - low, 255)
        ball[:] = np.array(self._tone((228, 220, 214), 0.95), np.uint8)
        look, centre = self.rotation.T @ self.head.gaze[number], self.head.eyes[number]
        side = np.cross(look, [0, 1.0, 0])
        side /= np.linalg.norm(side) + 1e-9
        up, circle, pupil = np.cross(side, look), _circle(24), self.points[SCHEMA.pupils[number]] - low
        for size, colour in ((1, np.asarray(self.look.iris) * 0.55), (0.85, self.look.iris), (0.42, (16, 12, 12))):
            radius = IRIS_RADIUS * size
            around = circle[:, :1] * side + circle[:, 1:] * up
            ring = self.place(centre + look * np.sqrt(EYE_RADIUS**2 - radius**2) + radius * around)
            fill(ball, ring - ring.mean(0) + self.points[SCHEMA.pupils[number]] - low, self._tone(colour))
        spot = pupil + np.asarray(self.light.direction)[:2] * 0.035 * self.scale
        fill(ball, spot + 0.013 * self.scale * circle, (245, 245, 245))
        shade = np.linspace(0.68, 1.05, patch.shape[0])[:, None, None].clip(0, 1)  # the lid's shadow
        alpha = inside.astype(np.float32)[..., None] / 255
        patch[:] = patch * (1 - alpha) + ball * shade * alpha

    def _mouth(self, canvas: np.ndarray) -> None:
        outer, inner = (self.points[list(SCHEMA.regions[n])] for n in ("outer lips", "inner lips"))
        tone = np.asarray(self.look.lips) * (1 - 0.25 * self.look.make_up) + np.array([70, -10, 0]) * self.look.make_up * 0.7
        fill(canvas, _smooth(outer, rounds=1), self._tone(np.clip(tone, 0, 255)))
        half = len(outer) // 2
        lower = np.concatenate([outer[half:], outer[:1], inner[:1], inner[len(inner) // 2 :][::-1]])
        fill(canvas, lower, self._tone(np.clip(tone * 1.12, 0, 255)))
        gap = np.linalg.norm(inner[2] - inner[6])
        if gap > 0.03 * self.scale:
            fill(canvas, _smooth(inner, rounds=1), self._tone((60, 22, 24)))
            if gap > 0.05 * self.scale:
                teeth = np.concatenate([inner[1:4], (inner[1:4] + (inner[5:8][::-1] - inner[1:4]) * 0.42)[::-1]])
                fill(canvas, teeth, self._tone((225, 218, 205)))
        else:
            middle = (inner[[0, 1, 2, 3, 4]] + inner[[0, 7, 6, 5, 4]]) / 2
            _line(canvas, _smooth(middle, closed=False), self._tone(tone * 0.45), 0.02 * self.scale)

    def _nose(self, canvas: np.ndarray) -> None:
        nose = self.points[list(SCHEMA.regions["nose"])]
        dark, base, circle = self._tone(np.asarray(self.look.skin) * 0.42), nose[4:9], _circle(14)
        for side, a, b in ((-1, base[0], base[1]), (1, base[4], base[3])):
            if (self.rotation @ [0.8 * side, 0.5, 0.6])[2] < 0.2:
                continue
            middle = (a * 0.35 + b * 0.65) + (base[2] - nose[3]) * 0.04
            across = (b - a) * 0.42
            down = np.array([-across[1], across[0]]) * 0.45
            fill(canvas, middle + circle[:, :1] * across + circle[:, 1:] * down, dark)
        _line(canvas, _smooth(base, closed=False), self._tone(np.asarray(self.look.skin) * 0.6), 0.014 * self.scale)

    def _glasses(self) -> None:
        frame = self._tone((30, 28, 28) if self.rng.random() < 0.7 else (130, 100, 60))
        squareness, width, rims = self.rng.uniform(2.0, 4.0), 0.025 * self.scale, []
        unit = _circle(28)
        unit /= (np.abs(unit) ** squareness).sum(1, keepdims=True) ** (1 / squareness)
        for eye, outward in ((SCHEMA.right_eye, -1), (SCHEMA.left_eye, 1)):
            middle = self.head.landmarks[[eye.outer, eye.inner]].mean(0) + np.array([0.02 * outward, 0.04, 0.15])
            rim = middle + np.column_stack([0.25 * unit[:, 0], 0.19 * unit[:, 1], -0.12 * (unit[:, 0] * outward).clip(0)])
            rims.append(middle)
            if (self.rotation @ [0.9 * outward, 0, 0.75])[2] < 0:
                continue
            if self.look.glasses == "sun":
                self._both(self.place(rim), self._tone((28, 26, 30), 0.8))
            _line(self.colour, self.place(rim), frame, width, closed=True)
            arm = self.place(np.array([middle + [0.24 * outward, -0.05, -0.12], [0.87 * outward, 0.0, -0.8]]))
            _line(self.colour, arm, frame, width)
        bridge = self.place(np.stack([rims[0] + [0.24, -0.04, 0.03], rims[1] + [-0.24, -0.04, 0.03]]))
        _line(self.colour, bridge, frame, width)

    def _hat(self) -> None:
        ring = self.head.surface[RINGS]
        brim = ring[ring[:, 1] < -0.38] * [1.12, 1.0, 1.0]
        top = brim * [0.95, 1.0, 1.0] + [0, -0.5, -0.25]
        rear = brim * [1.0, 0.8, 1.0] + [0, 0, -0.9]
        outline = cv2.convexHull(self.place(np.concatenate([brim, top, rear])).astype(np.float32))[:, 0]
        self._both(_smooth(outline.astype(float)), self._tone(self.look.hat, 0.95))
        edge = self.place(np.concatenate([brim + [0, -0.02, 0.25], (brim + [0, 0.07, 0.05])[::-1]]))
        self._both(edge, self._tone(self.look.hat, 0.7))

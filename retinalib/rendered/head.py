"""A head in three dimensions that carries the 98 WFLW landmarks.

Head frame: the unit is the distance of the outer canthi of the average head; the origin lies between the canthi; x to the
image's right (the person's left), y down, z towards the camera. Angles in degrees: yaw is positive when the face turns to the
image's right, pitch when it looks up, roll when the head tilts clockwise in the image."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from retinalib.landmarks import WFLW_98 as SCHEMA

EYE_RADIUS = 0.135
IRIS_RADIUS = 0.066
_CENTRE = np.array([0.0, 0.32])  # of the surface

# The outline beyond the contour, over the forehead: half width and depth at heights above the ears.
_FOREHEAD = [(0.0, -0.80, 0.0), (0.21, -0.78, -0.04), (0.46, -0.70, -0.20), (0.71, -0.50, -0.45), (0.80, -0.30, -0.64)]
_AVERAGE = np.genfromtxt(Path(__file__).with_name("average_face.csv"), delimiter=",", skip_header=3)  # (98, 3) x, y, depth
_HALF_WIDTH, _Y, _EDGE = np.concatenate([_FOREHEAD, _AVERAGE[:17] * [-1, 1, 1]]).T


def _bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    return np.exp(-(((np.abs(x) - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) / 2)


def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the average face's surface over (x, y), inside the contour and up to the hairline."""
    out = np.clip(np.abs(x) / np.maximum(np.interp(y, _Y, _HALF_WIDTH), 0.1), 0, 1.1)  # 0 in the middle, 1 on the outline
    middle = 0.09 + 0.05 * ((y - 0.32) / 0.98) ** 2 - 0.24 * np.clip(-y, 0, 1) ** 2
    z = middle + (np.interp(y, _Y, _EDGE) - middle) * out**3.8
    z = z + 0.3 * _bump(x, y, 0, 0.75, 0.13, 0.147) - 0.08 * _bump(x, y, 0, 0.95, 0.3, 0.2)  # teeth and lips, the dent below
    z = z - 0.1 * _bump(x, y, 0.35, 0.0, 0.13, 0.08)  # eyes
    ridge = np.clip((y + 0.14) / 0.55, 0, 1) * (y < 0.43) + np.clip((0.53 - y) / 0.1, 0, 1) * (y >= 0.43)
    z = z + 0.37 * ridge * np.exp(-((x / (0.075 + 0.05 * np.clip(y, 0, 1))) ** 2) / 2)
    return z + 0.07 * _bump(x, y, 0.15, 0.45, 0.05, 0.055)  # nose wings


@dataclass(frozen=True)
class Expression:
    """What the face does. 0 is rest; mouth: opening; lids: 0 closed, 1 as on the average face, up to 1.5 wide."""

    mouth: float = -0.6  # -1: closed … 4: wide open
    smile: float = 0.0  # -1 … 1.6
    pucker: float = 0.0  # 0 … 1
    brows: float = 0.0  # -1 lowered … 1 raised
    lids: tuple[float, float] = (1.0, 1.0)  # right, left


@dataclass(frozen=True)
class Pose:
    """Where the head turns, degrees."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def matrix(self) -> np.ndarray:
        """(3, 3): head frame to camera frame, yaw first, then pitch, then roll."""
        y, p, r = np.radians([self.yaw, self.pitch, self.roll])
        turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
        tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
        return tilt @ nod @ turn


BASIS = (
    "face width", "jaw width", "chin length", "forehead", "eye distance", "eye size", "eye slant", "brow height",
    "brow arch", "nose length", "nose width", "mouth width", "lip thickness", "mouth height", "nose depth", "roundness",
)  # fmt: skip
"""What the coefficients of a person's shape change, in their order; about standard normal each."""


def _shape_field(points: np.ndarray, shape: tuple[float, ...]) -> np.ndarray:
    """(N, 3) points moved as the person's shape asks; smooth in space, so that landmarks and surface move together."""
    c = dict(zip(BASIS, (*shape, *([0.0] * len(BASIS))), strict=False))
    p = points.copy()
    x, y = points[:, 0], points[:, 1]
    side = np.sign(x)
    p[:, 0] += 0.045 * c["face width"] * x
    p[:, 0] += 0.05 * c["jaw width"] * x * np.clip((y - 0.37) / 0.55, 0, 1.3)
    p[:, 1] += 0.05 * c["chin length"] * np.clip((y - 0.83) / 0.46, 0, 1.2)
    p[:, 1] -= 0.05 * c["forehead"] * np.clip((-0.3 - y) / 0.4, 0, 1.5)
    near_eye = _bump(x, y, 0.35, 0.0, 0.2, 0.12)
    p[:, 0] += 0.016 * c["eye distance"] * side * near_eye
    p[:, 0] += 0.05 * c["eye size"] * (x - side * 0.35) * near_eye
    p[:, 1] += 0.10 * c["eye size"] * y * near_eye
    p[:, 1] -= 0.09 * c["eye slant"] * (np.abs(x) - 0.35) * near_eye
    brow = _bump(x, y, 0.38, -0.2, 0.24, 0.08)
    p[:, 1] -= 0.035 * c["brow height"] * brow
    p[:, 1] -= 0.02 * c["brow arch"] * _bump(x, y, 0.42, -0.22, 0.1, 0.07)
    nose = _bump(x, y, 0, 0.44, 0.2, 0.18)
    p[:, 1] += 0.035 * c["nose length"] * nose
    p[:, 0] += 0.14 * c["nose width"] * x * _bump(x, y, 0.14, 0.46, 0.1, 0.08)
    mouth = _bump(x, y, 0, 0.74, 0.35, 0.15)
    p[:, 0] += 0.09 * c["mouth width"] * x * mouth
    p[:, 1] += 0.14 * c["lip thickness"] * (y - 0.74) * mouth
    p[:, 1] += 0.03 * c["mouth height"] * mouth
    p[:, 2] += 0.05 * c["nose depth"] * _bump(x, y, 0, 0.39, 0.12, 0.14)
    p[:, 0] += 0.03 * c["roundness"] * x * _bump(x, y, 0.7, 0.69, 0.25, 0.28)
    return p


@cache
def average_landmarks() -> np.ndarray:
    """(98, 3) landmarks of the average face at rest, head frame; the lids bulge over the eyeballs."""
    flat = _AVERAGE[:, :2]
    points = np.column_stack([flat, height(*flat.T)])
    for eye in (SCHEMA.right_eye, SCHEMA.left_eye):
        lids = list(eye.upper + eye.lower)
        points[lids, 2] += 0.03
    points[list(SCHEMA.regions["inner lips"]), 2] -= 0.015
    return points


RINGS = 11  # of the face's surface


@cache
def _surface_at_rest() -> np.ndarray:
    """(R, T, 3) a grid of quadrilaterals from the middle of the face over its outline to the back of the head."""
    contour = _AVERAGE[list(SCHEMA.regions["contour"]), :2]
    top = np.radians(np.linspace(12, 168, 17))
    arc = np.column_stack([0.83 * np.cos(top), -0.06 - 0.74 * np.sin(top) ** 0.8])
    outline = np.concatenate([contour, arc])  # from the right ear down to the chin, up to the left ear, over the forehead
    length = np.concatenate([[0], np.linalg.norm(np.diff(outline, axis=0, append=outline[:1]), axis=1).cumsum()])
    at = np.linspace(0, length[-1], 60, endpoint=False)
    closed = np.concatenate([outline, outline[:1]])
    outline = np.column_stack([np.interp(at, length, closed[:, i]) for i in range(2)])
    radii = np.linspace(0.0, 1.0, RINGS + 1)[1:]
    flat = _CENTRE + radii[:, None, None] * (outline - _CENTRE)
    face = np.concatenate([flat, height(flat[..., 0], flat[..., 1])[..., None]], -1)
    edge = face[-1]
    lift = np.clip((0.6 - edge[:, 1]) / 0.6, 0, 1)[:, None]  # 1 at the ears and above, 0 at the jaw
    skull = []
    for grow, back in ((1.04, -0.25), (1.03, -0.6), (0.86, -0.95), (0.45, -1.2)):
        crown = edge * [grow, 1.0, 1.0] + [0, 0, back]
        above = np.minimum(edge[:, 1] + 0.05, 0)
        crown[:, 1] += above * ((1 + 0.32 * min(1, -2 * back)) * grow - 1) - np.maximum(edge[:, 1], 0) * 0.2 * -back
        nape = edge * [0.9 * grow, 1, 1] + [0, -0.036 * (1 - back), back * 0.75]
        skull.append(lift * crown + (1 - lift) * nape)
    return np.concatenate([face, np.stack(skull)])


def _expression_field(points: np.ndarray, expression: Expression) -> np.ndarray:
    """(N, 3) displacement of the face: jaw, mouth corners, lips, brows. Not the lids."""
    x, y = points[:, 0], points[:, 1]
    moved = np.zeros_like(points)
    jaw = np.clip((y - 0.74) / 0.11, 0, 1) * np.clip(1.15 - np.abs(x) * 0.9, 0, 1)
    lower_lip = _bump(x, y, 0, 0.81, 0.28, 0.09)
    upper_lip = _bump(x, y, 0, 0.65, 0.2, 0.055)
    moved[:, 1] += expression.mouth * (0.095 * np.maximum(jaw, 0.95 * lower_lip * (y > 0.74)) - 0.02 * upper_lip)
    moved[:, 2] -= 0.03 * max(expression.mouth, 0) * jaw
    corner = _bump(x, y, 0.27, 0.74, 0.1, 0.09)
    moved[:, 0] += 0.07 * expression.smile * np.sign(x) * corner
    moved[:, 1] -= 0.06 * expression.smile * corner
    cheek = _bump(x, y, 0.45, 0.41, 0.18, 0.16)
    moved[:, 1] -= 0.03 * expression.smile * cheek
    moved[:, 2] += 0.04 * max(expression.smile, 0) * cheek
    mouth = _bump(x, y, 0, 0.74, 0.3, 0.12)
    moved[:, 0] -= 0.35 * expression.pucker * x * mouth
    moved[:, 2] += 0.07 * expression.pucker * mouth
    brow = _bump(x, y, 0.38, -0.2, 0.26, 0.09)
    moved[:, 1] -= 0.06 * expression.brows * brow
    moved[:, 0] -= 0.03 * min(expression.brows, 0) * -np.sign(x) * _bump(x, y, 0.18, -0.18, 0.1, 0.08)
    return moved


@dataclass(frozen=True)
class Head:
    """One head with its expression and gaze, in its own frame."""

    landmarks: np.ndarray  # (98, 3)
    surface: np.ndarray  # (R, T, 3), the skin
    eyes: np.ndarray  # (2, 3), centres, right first
    rotation: np.ndarray  # (3, 3), to the camera's frame
    gaze: np.ndarray  # (2, 3) units, camera's frame

    def project(self, points: np.ndarray, scale: float, distance: float) -> np.ndarray:
        """(N, 3) points of the head's frame to (N, 2) pixels from its origin, ``distance`` units of ``scale`` pixels away."""
        turned = points @ self.rotation.T
        return turned[:, :2] * (scale * distance / (distance - turned[:, 2:]))


def gaze_vector(yaw: float | np.ndarray, pitch: float | np.ndarray) -> np.ndarray:
    """(..., 3) unit directions in the camera's frame, of degrees: (0, 0) into the camera, positive to the right and up."""
    y, p = np.radians([yaw, pitch])
    return np.stack([np.sin(y) * np.cos(p), -np.sin(p), np.cos(y) * np.cos(p)], -1)


def build(shape: tuple[float, ...], expression: Expression, pose: Pose, gaze: tuple[np.ndarray, np.ndarray]) -> Head:
    """Puts a head together. shape: coefficients of ``BASIS``; gaze: right and left unit direction in the camera's frame."""
    rest, surface = average_landmarks(), _surface_at_rest()
    everything = _shape_field(np.concatenate([rest, surface.reshape(-1, 3)]), shape)
    everything = everything + _expression_field(everything, expression)
    landmarks = everything[: SCHEMA.count].copy()
    inner = list(SCHEMA.regions["inner lips"])
    upper, lower = inner[1 : len(inner) // 2], inner[: len(inner) // 2 : -1]
    crossed = landmarks[upper, 1] > landmarks[lower, 1]  # then they touch instead, halfway
    middle = (landmarks[upper, 1] + landmarks[lower, 1]) / 2
    for lips in (upper, lower):
        landmarks[lips, 1] = np.where(crossed, middle, landmarks[lips, 1])
    rotation, eyes = pose.matrix(), []
    for eye, opening, direction in zip((SCHEMA.right_eye, SCHEMA.left_eye), expression.lids, gaze, strict=True):
        outer, inner = landmarks[eye.outer], landmarks[eye.inner]
        middle = (outer + inner) / 2
        eyes.append(middle + np.array([0, -0.005, 0.045 - EYE_RADIUS]))
        look = rotation.T @ direction  # head frame
        # the upper lid follows the gaze up and down and closes onto the lower one
        follow = np.clip(-look[1], -0.6, 0.5) * 0.06
        for up, low in zip(eye.upper, eye.lower, strict=True):
            share = np.clip((landmarks[up, 0] - outer[0]) / (inner[0] - outer[0]), 0, 1)
            line = outer[1] + share * (inner[1] - outer[1])
            bottom = landmarks[low, 1] + 0.3 * follow * -1
            top = line + (landmarks[up, 1] - line) * opening - follow * min(opening, 1)
            landmarks[low, 1] = line + (bottom - line) * (0.55 + 0.45 * min(opening, 1.2))
            landmarks[up, 1] = min(top, landmarks[low, 1] - 0.004) if opening > 0.05 else landmarks[low, 1] - 0.004
        landmarks[eye.pupil] = eyes[-1] + EYE_RADIUS * look
        if opening < 0.15:  # closed: WFLW's annotators put the pupil between the lids
            landmarks[eye.pupil, 1] = np.mean([landmarks[i, 1] for i in eye.upper + eye.lower])
            landmarks[eye.pupil, 0] = middle[0]
    return Head(landmarks, everything[SCHEMA.count :].reshape(surface.shape), np.array(eyes), rotation, np.stack(gaze))


def landmarks_2d(head: Head, scale: float, distance: float) -> np.ndarray:
    """(98, 2) landmarks in pixels as WFLW's annotators place them: hidden contour points move to the visible outline."""
    contour, steps = list(SCHEMA.regions["contour"]), 14
    points = head.landmarks[contour]
    inward = np.linspace(0, 0.78, steps)[:, None, None]  # from the contour towards the middle, the nose left out
    flat = points[None, :, :2] * np.stack([1 - inward[:, 0, 0], np.ones(steps)], -1)[:, None]
    rest = points[:, 2] - height(points[:, 0], points[:, 1])
    lines = np.concatenate([flat, (height(flat[..., 0], flat[..., 1]) + rest * (1 - inward[..., 0]))[..., None]], -1)
    pixels = head.project(lines.reshape(-1, 3), scale, distance).reshape(steps, len(contour), 2)
    left, right, top, bottom = head.project(
        np.array([[0.0, 0.32, 0.0], [0.1, 0.32, 0.0], [0.0, 0.3, 0.0], [0.0, 0.7, 0.0]]), scale, distance
    )
    axis = bottom - top
    normal = np.array([axis[1], -axis[0]]) / np.linalg.norm(axis)  # to the image's right of the face's own axis
    if (right - left) @ normal < 0:
        normal = -normal
    outward = np.sign(points[:, 0])
    outward[len(contour) // 2] = 0
    reach = (pixels @ normal) * outward[None]
    shown = head.project(head.landmarks, scale, distance)
    shown[contour] = pixels[reach.argmax(0), np.arange(len(contour))]
    return shown

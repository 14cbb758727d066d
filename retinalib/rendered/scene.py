"""What is around the faces of a rendered picture: background, bodies, things before faces, and the lens."""

import cv2
import numpy as np

from retinalib.landmarks import WFLW_98 as SCHEMA
from retinalib.rendered.render import Light, Look, fill


def _line(picture: np.ndarray, start: np.ndarray, end: np.ndarray, colour: object, width: float) -> None:
    ends = start.astype(int).tolist(), end.astype(int).tolist()
    cv2.line(picture, *ends, colour, max(1, round(width)), cv2.LINE_AA)


def _muted(rng: np.random.Generator) -> np.ndarray:
    colour = rng.uniform(10, 245, 3)
    return colour.mean() + (colour - colour.mean()) * rng.beta(1.2, 2.2)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: a gradient with texture, things of all sorts, and some that look a little like faces."""
    low, high = (_muted(rng).astype(np.float32) for _ in range(2))
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    ramp = ramp[:, None] if rng.random() < 0.5 else ramp[None, :]
    picture = low + (high - low) * np.broadcast_to(ramp, (size, size))[..., None]
    for cells in (4, 14, 50):
        strength = (rng.uniform(3, 16) * rng.uniform(0.5, 1.2, 3)).astype(np.float32)
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[..., None] * strength
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(4, 26))):
        _thing(picture, size, rng)
    for _ in range(int(rng.integers(0, 4))):
        _distractor(picture, size, rng)
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.8, 4.0)) * size / 320)
    return picture


def _thing(picture: np.ndarray, size: int, rng: np.random.Generator) -> None:
    colour, at = _muted(rng).tolist(), rng.uniform(0, size, 2)
    extent = np.exp(rng.uniform(np.log(0.02), np.log(0.4))) * size
    kind = rng.integers(4)
    if kind == 0:
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = np.column_stack([np.cos(angle), np.sin(angle)])
        fill(picture, at + extent * rng.uniform(0.4, 1, (len(angle), 1)) * corners, colour)
    elif kind == 1:
        axes = (max(1, int(extent * rng.uniform(0.3, 1))), max(1, int(extent * rng.uniform(0.3, 1))))
        cv2.ellipse(picture, at.astype(int).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        step = rng.normal(0, 0.08 * size, 2)
        along = rng.normal(0, extent, 2)
        for number in range(int(rng.integers(2, 9))):
            start = at + number * step
            _line(picture, start, start + along, colour, int(rng.integers(1, 7)))
    else:
        step = rng.normal(0, 0.06 * size, 2)
        for number in range(int(rng.integers(2, 7))):
            cv2.circle(picture, (at + number * step).astype(int).tolist(), max(1, int(0.2 * extent)), colour, -1, cv2.LINE_AA)


def _distractor(picture: np.ndarray, size: int, rng: np.random.Generator) -> None:
    tone = rng.uniform(0, 1)
    colour = np.array([240, 200, 175]) * tone + np.array([80, 50, 38]) * (1 - tone) + rng.normal(0, 14, 3)
    at, extent = rng.uniform(0, size, 2), rng.uniform(0.03, 0.16) * size
    axes = (max(2, int(extent * rng.uniform(0.6, 0.9))), max(2, int(extent)))
    cv2.ellipse(picture, at.astype(int).tolist(), axes, float(rng.uniform(-40, 40)), 0, 360, colour.tolist(), -1, cv2.LINE_AA)
    if rng.random() < 0.4:
        for side in (-0.35, 0.35):
            spot = (at + extent * np.array([side, rng.uniform(-0.6, 0.6)])).astype(int).tolist()
            cv2.circle(picture, spot, max(1, int(0.12 * extent)), (30, 25, 25), -1, cv2.LINE_AA)


def free_spot(size: int, height: float, taken: list[np.ndarray], rng: np.random.Generator) -> tuple[float, float] | None:
    """The head's origin (x, y) where a face of ``height`` pixels covers no ``taken`` box, which it joins; or None."""
    half = np.array([0.42, 0.5]) * height
    for _ in range(25):
        x, y = rng.uniform(half[0], size - half[0]), rng.uniform(half[1] * 0.9, size - half[1])
        box = np.array([x - half[0], y - half[1], x + half[0], y + half[1]])
        grown = box + np.array([-0.35, -0.45, 0.35, 0.5]) * height  # hair, hat and shoulders cover, too
        overlap = [np.minimum(grown[2:], b[2:]) - np.maximum(grown[:2], b[:2]) for b in taken]
        if all((o <= 0).any() for o in overlap):
            taken.append(box)
            return x, y - 0.15 * height
    return None


def blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray, corner: np.ndarray) -> None:
    """Lays a premultiplied (h, w, 3) layer with its cover (h, w) on the picture, its first pixel at ``corner`` (x, y)."""
    height, width = alpha.shape
    x0, y0 = np.maximum(corner, 0)
    x1, y1 = np.minimum(corner + [width, height], [picture.shape[1], picture.shape[0]])
    if x0 >= x1 or y0 >= y1:
        return
    part = np.s_[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    view = picture[y0:y1, x0:x1]
    kept = 255 - alpha[part].astype(np.uint16)[..., None]
    view[:] = np.minimum(view * kept // 255 + colour[part], 255)


def body(
    picture: np.ndarray, at: tuple[float, float], scale: float, look: Look, light: Light, rng: np.random.Generator
) -> None:
    """Neck and shoulders below the head whose origin lies at ``at``."""
    x, y = at
    bright = (light.ambient + 0.5 * light.key) * np.asarray(light.tint)
    lean, wide = rng.normal(0, 0.08), rng.uniform(1.5, 2.1)
    cloth = _muted(rng) * bright

    def points(shape: list[tuple[float, float]]) -> np.ndarray:
        return np.array([(x + scale * (px + lean), y + scale * py) for px, py in shape])

    right = [(0.4, 1.45), (0.75 * wide, 1.65), (wide, 2.2), (1.05 * wide, 9.0)]
    outline = [*((-px, py) for px, py in right), *right[::-1]]
    fill(picture, points(outline), cloth.tolist())
    skin = np.asarray(look.skin) * bright * 0.72
    fill(picture, points([(-0.46, 0.6), (-0.42, 1.5), (0, 1.9), (0.42, 1.5), (0.46, 0.6)]), skin.tolist())


def cover(
    picture: np.ndarray, landmarks: np.ndarray, scale: float, skin: tuple[float, float, float], rng: np.random.Generator
) -> None:
    """Something before a part of the face: a mask, a hand, a microphone or a plain thing."""
    contour, mouth = landmarks[list(SCHEMA.regions["contour"])], landmarks[list(SCHEMA.regions["outer lips"])].mean(0)
    kind = rng.choice(["mask", "hand", "microphone", "thing"], p=(0.2, 0.3, 0.2, 0.3))
    if kind == "mask":
        nose = landmarks[SCHEMA.regions["nose"][1]]
        colour = rng.choice([[225, 230, 235], [130, 175, 205], [35, 35, 40]]).tolist()
        fill(picture, np.concatenate([contour[4:-4], nose[None]]), colour)
    elif kind == "hand":
        wrist = contour[int(rng.integers(6, 27))] + rng.normal(0, 0.1, 2) * scale
        centre = landmarks.mean(0)
        tone = (np.asarray(skin) * rng.uniform(0.6, 0.95)).tolist()
        toward = (centre - wrist) / (np.linalg.norm(centre - wrist) + 1e-6)
        across = np.array([-toward[1], toward[0]])
        for finger in range(4):
            start = wrist + across * (finger - 1.5) * 0.15 * scale - toward * 0.2 * scale
            end = start + toward * scale * rng.uniform(0.5, 0.75)
            _line(picture, start, end, tone, 0.14 * scale)
    elif kind == "microphone":
        at = mouth + rng.normal(0, 0.12, 2) * scale + [0, 0.15 * scale]
        end = at + np.array([rng.choice([-1, 1]) * 0.6, 1.2]) * scale
        _line(picture, at, end, (40, 40, 42), 0.12 * scale)
        cv2.circle(picture, at.astype(int).tolist(), max(1, round(0.17 * scale)), (70, 70, 74), -1, cv2.LINE_AA)
    else:
        at = landmarks[int(rng.integers(len(landmarks)))]
        angle = np.sort(rng.uniform(0, 2 * np.pi, 6))
        shape = at + scale * rng.uniform(0.15, 0.45, (6, 1)) * np.column_stack([np.cos(angle), np.sin(angle)])
        fill(picture, shape, rng.uniform(0, 255, 3).tolist())


def lens(picture: np.ndarray, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Blur of focus or motion (``blur``: its standard deviation in pixels), then noise of the sensor."""
    if blur > 0.3:
        if rng.random() < 0.6:
            picture = cv2.GaussianBlur(picture, (0, 0), blur)
        else:
            length = max(3, round(blur * np.sqrt(12)))  # a line of this length has that standard deviation
            kernel = np.zeros((length, length), np.float32)
            angle = rng.uniform(0, np.pi)
            middle, reach = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
            ends = [np.round(middle + s * reach).astype(int).tolist() for s in (-1, 1)]
            cv2.line(kernel, ends[0], ends[1], 1.0, 1)
            picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    strength = np.float32(rng.uniform(0, 6))
    return cv2.add(picture, rng.standard_normal(picture.shape, np.float32) * strength, dtype=cv2.CV_8U)

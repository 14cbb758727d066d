"""(image, Faces) to (image, Faces): square crop, expansion, turn, flip, distortion of colours and sharpness.

A landmark that leaves the crop keeps its coordinates and is no longer visible; the loss skips it."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from retinalib.faces import Faces

_FILL = (124, 116, 104)  # RGB where there is no photo
_EXPANDED = (1.0, 1.6)  # in longer sides of the photo
_LARGE_FACE = 64  # pixels of a face's longer side in the photo, from which on its parts can be shown alone
_NEAR = (0.15, 0.5)  # in longer sides of the face
_LEAST_SHARE = 0.35  # of a face's box that the crop shows: no box within the crop has a larger IoU with the whole face's
_BLUR = (0.5, 2.0)  # standard deviation in pixels
_JPEG = (30, 90)  # quality


@dataclass(frozen=True)
class AugmentConfig:
    """How much training images are varied. What is 0 draws no random number: crops are those of a version without it."""

    crop: tuple[float, float] = (0.3, 0.8)  # side of the crop as a share of the photo's shorter side, if the face fits
    expand: float = 0.1  # probability of a larger crop
    near: float = 0.0  # probability that the crop is a part of a large face, or of what is beside it, instead
    turn: float = 0.0  # ± degrees about the middle
    flip: float = 0.5  # probability
    brightness: float = 32.0  # added, ± grey levels
    contrast: float = 0.4  # multiplied, 1 ± this
    saturation: float = 0.5  # multiplied, 1 ± this
    hue: float = 12.0  # shifted, ± degrees
    blur: float = 0.0  # probability of a Gaussian blur
    grey: float = 0.0  # probability of no colours
    jpeg: float = 0.0  # probability of compression

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares of the photo, 0 < low <= high <= 1, got {self.crop}")
        for name in ("expand", "near", "flip", "blur", "grey", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.turn <= 180:
            raise ValueError(f"turn must be from 0 to 180°, got {self.turn}")


def augment(
    image: np.ndarray, faces: Faces, size: int, rng: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, Faces]:
    """A training crop: (H, W, 3) uint8 RGB and its faces to (size, size, 3) and the faces whose centres lie in the crop.

    One face, chosen at random, is kept whole as far as the photo shows it, or the crop shows a part of it, or of what is beside
    it, as background. Boxes are cut at the crop's border. Raises ValueError for another image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size or size < 1:
        raise ValueError(f"augment takes an RGB image (H, W, 3) of uint8 and a size, got {image.dtype} {image.shape}, {size}")
    left, top, side = _choose_square(image.shape[:2], faces, rng, config)
    scale = size / side
    method = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC]))
    turn = rng.uniform(-config.turn, config.turn) if config.turn else 0.0
    image = _cut_turned(image, left, top, side, size, method, turn) if turn else _cut(image, left, top, side, size, method)
    faces = faces.transformed((scale, scale), (-left * scale, -top * scale))
    if turn:
        faces = turned(faces, turn, size / 2)
    if rng.random() < config.flip:
        image = cv2.flip(image, 1)
        faces = faces.flipped(size)
    centre = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    cut = faces.boxes.clip(0, size)
    whole, shown = faces.boxes[:, 2:] - faces.boxes[:, :2], cut[:, 2:] - cut[:, :2]
    kept = ((centre > 0) & (centre < size)).all(1) & (shown >= 1).all(1)  # a face has a pixel a side at least
    kept &= shown.prod(1) >= _LEAST_SHARE * whole.prod(1)
    inside = ((faces.landmarks >= 0) & (faces.landmarks <= size)).all(-1)
    faces = replace(faces, boxes=cut, visible=faces.visible & inside)[kept]
    return _distort(image, rng, config), faces


def turned(faces: Faces, degrees: float, centre: float) -> Faces:
    """The faces of the square image that was rotated about (centre, centre), clockwise as seen; visibility as it was. A box
    becomes that of its inscribed ellipse, rotated; the box of rotated corners would grow by up to √2."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[cos, -sin], [sin, cos]], np.float32)
    middle, half = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2, (faces.boxes[:, 2:] - faces.boxes[:, :2]) / 2
    middle, half = (middle - centre) @ rotation.T + centre, np.sqrt(half**2 @ (rotation.T**2))
    landmarks = (faces.landmarks - centre) @ rotation.T + centre
    return replace(faces, boxes=np.concatenate([middle - half, middle + half], 1), landmarks=landmarks)


def _choose_square(
    shape: tuple[int, int], faces: Faces, rng: np.random.Generator, config: AugmentConfig
) -> tuple[float, float, float]:
    """Left, top and side of the crop, whole pixels; it may reach out of the photo."""
    height, width = shape
    if rng.random() < config.expand:
        side = rng.uniform(*_EXPANDED) * max(height, width)
    else:
        side = rng.uniform(*config.crop) * min(height, width)
    box = faces.boxes[rng.integers(len(faces))] if len(faces) else None
    if box is not None and (box[2:] - box[:2]).max() >= _LARGE_FACE and rng.random() < config.near:
        extent = box[2:] - box[:2]
        side = min(np.floor(rng.uniform(*_NEAR) * extent.max()), height, width)
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-1, 1, 2) * extent
        left, top = (centre - side / 2).round().clip(0, [width - side, height - side])
        return float(left), float(top), float(side)
    if box is not None:  # large enough for the face
        box = box.clip(-max(height, width), 2 * max(height, width))  # but no larger than memory for a box far out of the photo
        side = max(side, (box[2:] - box[:2]).max() + 1)
    side = max(2.0, np.ceil(side))
    # the crop stays inside the photo where it fits, else the photo inside the crop
    low = np.minimum([0.0, 0.0], [width - side, height - side])
    high = np.maximum([0.0, 0.0], [width - side, height - side])
    if box is not None:
        low, high = np.ceil((box[2:] - side).clip(low, high)), np.floor(box[:2].clip(low, high))
    left, top = rng.integers(low.astype(int), high.astype(int), endpoint=True)
    return float(left), float(top), float(side)


def _cut(image: np.ndarray, left: float, top: float, side: float, size: int, method: int) -> np.ndarray:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = int(left), int(top), int(left + side), int(top + side)
    inner = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    borders = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if any(borders):
        inner = cv2.copyMakeBorder(inner, *borders, cv2.BORDER_CONSTANT, value=_FILL)
    if method == cv2.INTER_AREA and size > side:
        method = cv2.INTER_LINEAR
    return cv2.resize(inner, (size, size), interpolation=method)


def _cut_turned(image: np.ndarray, left: float, top: float, side: float, size: int, method: int, degrees: float) -> np.ndarray:
    """The square rotated about its middle: cut with what lies around it, so that its corners show the photo, then rotated."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    margin = np.ceil(side * (abs(cos) + abs(sin) - 1) / 2) + 1
    whole = side + 2 * margin
    larger = round(size * whole / side)
    image = _cut(image, left - margin, top - margin, whole, larger, method)
    rotation = np.array([[cos, -sin], [sin, cos]]) * (size * whole / (side * larger))
    shift = size / 2 - rotation @ [larger / 2, larger / 2]
    shift = shift + rotation @ [0.5, 0.5] - 0.5  # OpenCV counts from the middle of the first pixel
    return cv2.warpAffine(image, np.column_stack([rotation, shift]), (size, size), borderValue=_FILL)


def _distort(image: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Brightness and contrast by one table, saturation and hue by another in HSV, each half of the time; then sharpness."""
    if rng.random() < 0.5:
        gain, shift = 1 + rng.uniform(-1, 1) * config.contrast, rng.uniform(-1, 1) * config.brightness
        levels = (np.arange(256) - 128) * gain + 128 + shift
        image = cv2.LUT(image, levels.clip(0, 255).round().astype(np.uint8))
    if rng.random() < 0.5:
        turn, gain = rng.uniform(-1, 1) * config.hue / 2, 1 + rng.uniform(-1, 1) * config.saturation  # OpenCV: 180 hues
        levels = np.arange(256, dtype=np.float64)
        tables = [(levels + turn) % 180, (levels * gain).clip(0, 255), levels]
        table = np.stack(tables, -1).astype(np.uint8)[None]
        image = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)
    if config.blur and rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*_BLUR))
    if config.grey and rng.random() < config.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if config.jpeg and rng.random() < config.jpeg:
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*_JPEG, endpoint=True))])[1]
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    return image

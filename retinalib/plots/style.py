"""One look for all figures: colours that colour-blind readers can tell apart, how faces are drawn, how figures are saved."""

import io
from itertools import cycle
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from retinalib.faces import Faces
from retinalib.files import replacing
from retinalib.landmarks import LandmarkSchema

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#555555")
"""Okabe and Ito's colours (2008), in the order in which series take them."""

LINES = ("-", "--", ":", "-.")  # also told apart in grey
TRUTH = "#14B87A"  # light green, and drawn below
PREDICTION = "#1F5FE0"  # dark blue

REGION_COLOURS = {
    "contour": "#009E73",
    "right brow": "#E69F00",
    "left brow": "#F6CF71",
    "nose": "#CC79A7",
    "right eye": "#0072B2",
    "left eye": "#56B4E9",
    "outer lips": "#D55E00",
    "inner lips": "#FF9E80",
    "pupils": "#F0E442",
    "eyes": "#0072B2",
    "mouth": "#D55E00",
}
"""A colour for each region of the schemas; the person's right side is the darker one of a pair."""


def region_colours(schema: LandmarkSchema) -> dict[str, str]:
    """A colour for each region of any schema, region -> colour."""
    others = cycle(PALETTE)
    return {name: REGION_COLOURS[name] if name in REGION_COLOURS else next(others) for name in schema.regions}


def use_style() -> None:
    """Sets the house style for all figures drawn from now on."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font_scale=0.88)
    plt.style.use(Path(__file__).with_name("house.mplstyle"))


def save_figure(fig: Figure, name: str, folder: str | Path) -> None:
    """Writes ``folder/name.png`` and ``folder/name.pdf``; the same figure gives the same bytes: no dates, no programs."""
    for suffix, unsaid in (("pdf", "CreationDate"), ("png", "Software")):
        with replacing(Path(folder) / f"{name}.{suffix}") as temporary:
            fig.savefig(temporary, format=suffix, metadata={unsaid: None})


def png(fig: Figure, dpi: float = 80) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    data = io.BytesIO()
    fig.savefig(data, format="png", dpi=dpi, metadata={"Software": None})
    return data.getvalue()


def draw_faces(
    ax: Axes,
    image: np.ndarray,
    truth: Faces | None = None,
    predicted: Faces | None = None,
    *,
    landmarks: bool = True,
    boxes: bool = True,
    regions: bool = False,
    numbers: bool = False,
) -> None:
    """Draws faces over an image, (H, W, 3) uint8, truth in green, predictions in blue, invisible landmarks ringed in black.
    regions: a colour and an outline for each region; numbers: the number of every landmark."""
    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    for faces, colour in ((truth, TRUTH), (predicted, PREDICTION)):
        for face in faces if faces is not None else ():
            if boxes:
                x1, y1, x2, y2 = face.boxes[0]
                ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=1.2))
            if landmarks:
                _draw_landmarks(ax, face, colour, regions, numbers)


def _draw_landmarks(ax: Axes, face: Faces, colour: str, regions: bool, numbers: bool) -> None:
    points, visible, schema = face.landmarks[0], face.visible[0], face.schema
    known = np.isfinite(points).all(-1)
    of_region = region_colours(schema)
    colours = np.array([of_region[r] if regions else colour for r in schema.region_of()])
    if regions:
        lines = region_lines(points, schema)
        shades = [of_region[name] for name in lines]
        ax.add_collection(LineCollection(list(lines.values()), colors=shades, linewidths=0.9, alpha=0.9))
    size = (0.02 if schema.count > 20 else 0.05) * float(face.size[0])
    for chosen, filled in ((known & visible, True), (known & ~visible, False)):
        dots = PatchCollection(
            [plt.Circle(point, size / 2) for point in points[chosen]],
            facecolors=colours[chosen] if filled else "none",
            edgecolors="white" if filled and numbers else colours[chosen],
            linewidths=0.3 if filled else 1,
            path_effects=None if filled else [withStroke(linewidth=2.4, foreground="black")],
            zorder=3,
        )
        ax.add_collection(dots)
    if numbers:
        for region, indices in schema.regions.items():
            there = [i for i in indices if known[i]]
            for i in there:
                direction = points[i] - points[there].mean(0)
                far = max(float(np.linalg.norm(direction)), 1e-6)
                step = -min(1.4 * size, 0.45 * far) if region == "inner lips" else 1.3 * size  # the outer lips' are outside
                if region.endswith("brow") and abs(direction[0]) < 0.4 * np.ptp(points[there, 0]):  # but for its ends
                    direction, far, step = np.array([0.0, -1.0]), 1.0, 1.05 * size  # under it are those of the eye
                at = points[i] + step * direction / far
                text = ax.annotate(str(i), at, color="white", fontsize=9, zorder=4, ha="center", va="center")
                text.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def region_lines(points: np.ndarray, schema: LandmarkSchema) -> dict[str, np.ndarray]:
    """The outlines of the regions that have more than two points: name -> (n, 2), in drawing order, without unknown points, NaN
    where an outline breaks."""
    lines = {}
    for name, region in schema.regions.items():
        if len(region) > 2:
            order = np.array([*region, *region[: name in schema.closed_regions]])  # closed: back to the first
            order = order[np.isfinite(points[order]).all(-1)]
            lines[name] = np.insert(points[order], np.flatnonzero(np.isin(order, schema.breaks)), np.nan, axis=0)
    return lines


def crop_face(image: np.ndarray, faces: Faces, number: int, size: int = 160, margin: float = 0.15) -> tuple[np.ndarray, Faces]:
    """One face in a square, (size, size, 3) uint8, grey beyond the photo, and the face in it; margin: of its longer side."""
    box = faces.boxes[number]
    scale = size / max((1 + 2 * margin) * (box[2:] - box[:2]).max(), 1.0)
    if scale < 0.5:  # a warp does not average
        height, width = image.shape[:2]
        image = cv2.resize(image, None, fx=1.5 * scale, fy=1.5 * scale, interpolation=cv2.INTER_AREA)
        return crop_face(image, faces.transformed((image.shape[1] / width, image.shape[0] / height)), number, size, margin)
    dx, dy = size / 2 - scale * (box[:2] + box[2:]) / 2
    half = (scale - 1) / 2  # OpenCV counts from the middle of the first pixel, boxes from its corner
    matrix = np.array([[scale, 0, dx + half], [0, scale, dy + half]], np.float64)
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128))
    return crop, faces[number].transformed((scale, scale), (dx, dy))


def annotated(image: np.ndarray, faces: Faces) -> bytes:
    """The photo with its faces drawn in, as a PNG of the photo's size, or 800 pixels on the longer side if that is more."""
    height, width = image.shape[:2]
    longest = max(height, width)
    figure = Figure(figsize=(10 * width / longest, 10 * height / longest))
    draw_faces(figure.add_axes((0, 0, 1, 1)), image, predicted=faces)
    return png(figure, dpi=max(longest, 800) / 10)

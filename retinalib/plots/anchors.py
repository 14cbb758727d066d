"""What chapter 2 and its explorer draw of anchors: what becomes of faces by size, and which anchors one face has."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection

from retinalib.faces import Faces
from retinalib.plots.style import PALETTE, TRUTH, draw_faces

KINDS = {"matched": PALETTE[0], "kept": PALETTE[1], "missed": "#1A1A1A"}  # blue, amber, nearly black
"""What can become of a face, and its colour: see :func:`retinalib.studies.anchor_coverage.coverage`."""

LABELS = {"matched": "matched from the threshold on", "kept": "keeps its one best anchor", "missed": "missed: background"}


def size_classes(sizes: pd.Series) -> pd.Series:
    """Sizes in half-octave classes named by their bounds, ordered."""
    low, high = np.floor(2 * np.log2(sizes.min())), np.floor(2 * np.log2(sizes.max())) + 1
    edges = 2 ** (np.arange(low, high + 1) / 2)
    labels = ["–".join(f"{edge:.0f}" if edge >= 4 else f"{edge:.2g}" for edge in pair) for pair in pairwise(edges)]
    return pd.cut(sizes, edges, right=False, labels=labels)


def draw_coverage(ax: Axes, table: pd.DataFrame) -> None:
    """Stacked bars of what becomes of the faces of each size class. table: of studies.anchor_coverage.coverage."""
    classes = size_classes(table["size"])
    shares = pd.crosstab(classes, table["kind"], normalize="index").reindex(columns=list(KINDS), fill_value=0)
    shares.rename(columns=LABELS).plot.bar(stacked=True, width=0.85, color=list(KINDS.values()), legend=False, ax=ax)
    plt.setp(ax.containers[2], hatch="///", edgecolor="white", linewidth=0)
    for x, n in enumerate(classes.value_counts().reindex(shares.index)):
        ax.annotate(str(n), (x, 1.01), ha="center", fontsize=9)
    plt.setp(ax.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set(xlabel="face size (pixels of the input)", ylim=(0, 1.07))
    ax.grid(axis="x", visible=False)


def draw_match(ax: Axes, image: np.ndarray, face: Faces, anchors: np.ndarray, strides: np.ndarray, closer: float = 0) -> None:
    """One face with the anchors that answer for it, a colour for each stride. image: (S, S, 3) uint8; anchors: (N, 4) x1 y1 x2
    y2 pixels and their (N,) strides; closer: limits the view to so many box sides around the face; 0: the whole image."""
    draw_faces(ax, image, face, landmarks=False)
    drawn_as = (("#E69F00", 0.8), ("#56B4E9", 1.8), ("#CC79A7", 2.6), ("#F0E442", 3.4))
    for stride, (colour, width) in zip(sorted(set(strides.tolist())), drawn_as, strict=False):
        own = anchors[strides == stride]
        squares = [plt.Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in own]
        drawn = PatchCollection(squares, facecolors="none", edgecolors=colour, linewidths=width, alpha=0.9)
        ax.add_collection(drawn).set_zorder(0.5)  # above the photo, below the face's box
        ax.plot(*((own[:, :2] + own[:, 2:]) / 2).T, "o", ms=2.5, color=colour)
        ax.plot([], [], "o-", ms=3.5, color=colour, lw=width, label=f"stride {stride}, with centres")
    ax.plot([], [], color=TRUTH, label="the face's box")
    if closer:
        x1, y1, x2, y2 = face.boxes[0]
        half = closer * max(x2 - x1, y2 - y1)
        ax.set(xlim=((x1 + x2) / 2 - half, (x1 + x2) / 2 + half), ylim=((y1 + y2) / 2 + half, (y1 + y2) / 2 - half))

"""What tests share: where other people's data lie, which are not part of the project, and landmark schemas of their own."""

import os
from pathlib import Path

import pytest

from retinalib.landmarks import Eye, LandmarkSchema

SHARED = Path(os.environ.get("RETINALIB_SHARED", Path(__file__).resolve().parents[2] / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "reference").is_dir(), reason="no folder 'shared' with reference weights and photos beside the project"
)

PLATE_4 = LandmarkSchema("plate4", 4, {"corners": (0, 1, 2, 3)}, (1, 0, 3, 2), closed_regions=frozenset({"corners"}))
"""The corners of a number plate, clockwise in pairs: nothing of a face."""

IBUG_68 = LandmarkSchema(
    "ibug68",
    68,
    {
        "contour": tuple(range(17)),
        "right brow": tuple(range(17, 22)),
        "left brow": tuple(range(22, 27)),
        "nose": tuple(range(27, 36)),
        "right eye": tuple(range(36, 42)),
        "left eye": tuple(range(42, 48)),
        "lips": tuple(range(48, 68)),
    },
    (*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40)
    + (*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),
    Eye(None, 36, 39, (36, 37, 38, 39, 40, 41), upper=(37, 38), lower=(41, 40)),
    Eye(None, 45, 42, (45, 44, 43, 42, 47, 46), upper=(44, 43), lower=(46, 47)),
)
"""The 68 points of iBUG 300-W, which have lids and no pupils."""

"""Where tests find other people's data, which is not part of the project."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("RETINALIB_SHARED", Path(__file__).resolve().parents[2] / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "reference").is_dir(), reason="no folder 'shared' with reference weights and photos beside the project"
)

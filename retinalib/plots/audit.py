"""The report of a label audit: two tables and a contact sheet."""

from itertools import zip_longest
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from retinalib.datasets.describe import load_listed
from retinalib.datasets.table import BOX, read_image, warn
from retinalib.detect import Detector
from retinalib.faces import Faces
from retinalib.files import write_bytes, write_text
from retinalib.plots.style import crop_face, draw_faces, png, use_style
from retinalib.studies import audit

_SHOWN, _COLUMNS = 48, 8  # faces on the contact sheet


def write_audit(root: Path, detector: Detector, out: Path) -> str:
    """Audits the lists in ``root``, see :mod:`retinalib.studies.audit`: writes duplicates.csv, and where it can audit
    labels audit.csv and worst.png. Returns a sentence. Raises what loading a data set raises, if no list could be loaded."""
    sets = []
    for split in ("train", "test"):
        try:
            sets.append(load_listed(root, split))
        except FileNotFoundError as error:
            if split == "test" and not sets:
                raise
            warn(str(error))
    faces, hashes = (pd.concat(parts) for parts in zip(*(audit.look(detector, one) for one in sets), strict=True))
    twice = audit.duplicates(hashes.reset_index(drop=True))
    write_text(out / "duplicates.csv", twice.to_csv(index=False))
    said = f"photos {len(hashes):,}, with a near-duplicate {len(twice):,}, of those across lists {twice['across'].sum():,}"
    if not len(faces):
        return f"{said}; no labels were audited: the network has other landmarks"
    table = audit.disputed(faces.reset_index(drop=True), sets[0].schema)
    boxes = pd.DataFrame(table["box"].to_list(), columns=BOX)
    write_text(out / "audit.csv", table.drop(columns=["box", "labels", "predicted"]).join(boxes).round(4).to_csv(index=False))
    use_style()
    roots, worst = {one.table.attrs["source"]: one.images_root for one in sets}, table[:_SHOWN]
    rows = -(-len(worst) // _COLUMNS)
    fig, axes = plt.subplots(rows, _COLUMNS, figsize=(1.7 * _COLUMNS, 1.9 * rows), layout="constrained", squeeze=False)
    for ax, row in zip_longest(axes.flat, worst.itertuples()):
        ax.set_axis_off()
        if row is not None:
            image, box = read_image(roots[row.file] / row.image), np.array([row.box])
            pair = (Faces(box, [points], schema=sets[0].schema) for points in (row.labels, row.predicted))
            (crop, label), (_, predicted) = (crop_face(image, one, 0, 220) for one in pair)
            draw_faces(ax, crop, label, predicted, boxes=False)
            ax.set_title(f"{row.Index + 1}: {row.kind}, {row.dispute:.0f}", fontsize=8, pad=2)
    write_bytes(out / "worst.png", png(fig, dpi=130))
    plt.close(fig)
    return f"{said}; labelled faces {len(table):,}"

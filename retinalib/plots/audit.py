"""The report of a label audit: two tables and a contact sheet."""

from pathlib import Path

import pandas as pd

from retinalib.datasets import wflw, wider
from retinalib.datasets.describe import official_lists
from retinalib.datasets.table import BOX, read_image, warn
from retinalib.detect import Detector
from retinalib.faces import Faces
from retinalib.files import write_bytes, write_text
from retinalib.plots.faces import plate
from retinalib.plots.style import crop_face, png, use_style
from retinalib.studies import audit

_SHOWN = 48  # faces on the contact sheet


def write_audit(root: Path, detector: Detector, out: Path) -> str:
    """Audits the lists in ``root``, see :mod:`retinalib.studies.audit`: writes duplicates.csv, and where it can audit
    labels audit.csv and worst.png. Returns a sentence. Raises what loading a data set raises, if no list could be loaded."""
    load = wflw.load if official_lists(root)[0][1] is wflw.read_annotations else wider.load_split
    sets = []
    for split in ("train", "test"):
        try:
            sets.append(load(root, split))
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
    roots, pictures, worst = {one.table.attrs["source"]: one.images_root for one in sets}, [], table[:_SHOWN]
    for row in worst.itertuples():
        image, pair = (
            read_image(roots[row.file] / row.image),
            Faces([row.box] * 2, [row.labels, row.predicted], schema=sets[0].schema),
        )
        (crop, label), (_, predicted) = (crop_face(image, pair, number, 220) for number in (0, 1))
        pictures.append((crop, label, predicted))
    titles = [
        f"{place}: {kind}, {dispute:.0f}" for place, (kind, dispute) in enumerate(worst[["kind", "dispute"]].to_numpy(), 1)
    ]
    write_bytes(out / "worst.png", png(plate(pictures, titles, columns=8, width=1.7, regions=False), dpi=130))
    return f"{said}; labelled faces {len(table):,}"

"""The report of a label audit: two tables and a contact sheet."""

from pathlib import Path

import pandas as pd

from retinalib.datasets import wflw, wider
from retinalib.datasets.describe import official_lists
from retinalib.datasets.table import BOX, FaceDataset, read_image, warn
from retinalib.detect import Detector
from retinalib.faces import Faces
from retinalib.files import write_bytes, write_text
from retinalib.plots.faces import plate
from retinalib.plots.style import crop_face, png, use_style
from retinalib.studies import audit

_SHOWN = 48  # faces on the contact sheet


def write_audit(root: Path, detector: Detector, out: Path) -> str:
    """Audits the lists in ``root``, see :mod:`retinalib.studies.audit`, and writes duplicates.csv and, where labels could be
    audited, audit.csv (a row a face, most disputed first) and worst.png. Returns what was found in some words. Raises what
    loading a data set raises, if no list could be loaded."""
    load = wflw.load if official_lists(root)[0][1] is wflw.read_annotations else wider.load_split
    sets: dict[str, FaceDataset] = {}
    for split in ("train", "test"):
        try:
            sets[split] = load(root, split)
        except FileNotFoundError as error:
            if split == "test" and not sets:
                raise
            warn(str(error))
    looked = [audit.look(detector, dataset, split) for split, dataset in sets.items()]
    faces, hashes = (pd.concat(parts, ignore_index=True) for parts in zip(*looked, strict=True))
    twice = audit.duplicates(hashes)
    write_text(out / "duplicates.csv", twice.to_csv(index=False))
    said = f"photos: {len(hashes):,}, with a near-duplicate {len(twice):,}, of those in several lists {twice['across'].sum():,}"
    if not len(faces):
        return f"{said}; no labels to audit, for the network's landmarks are others or there are none"
    table = audit.disputed(faces, detector.model.config.schema)
    boxes = pd.DataFrame(table["box"].to_list(), columns=BOX)
    plain = table.drop(columns=["box", "labels", "predicted"]).join(boxes)
    files = {split: dataset.table.attrs["source"] for split, dataset in sets.items()}
    write_text(out / "audit.csv", plain.assign(file=plain["list"].map(files)).round(4).to_csv(index=False))
    use_style()
    titles = [f"{n}: {row.kind}, {row.dispute:.1f}" for n, row in enumerate(table[:_SHOWN].itertuples(), 1)]
    pictures = [_picture(read_image(sets[row.list].images_root / row.image), row) for row in table[:_SHOWN].itertuples()]
    write_bytes(out / "worst.png", png(plate(pictures, titles, columns=8, width=1.7, regions=False), dpi=130))
    return f"{said}; labelled faces: {len(table):,}"


def _picture(image, row) -> tuple:
    pair = Faces([row.box] * 2, [row.labels, row.predicted])
    (crop, labels), (_, predicted) = (crop_face(image, pair, number, 220) for number in (0, 1))
    return crop, labels, predicted

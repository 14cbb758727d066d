"""Runs the notebooks in their order: ``retinalib workbook``, which is what ``make workbook`` does, and ``retinalib wflw``."""

import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from retinalib.batches import AugmentedPhotos, batch_keys, reading
from retinalib.config import PROFILES
from retinalib.model import RetinaFace, pick_device
from retinalib.train import Training
from retinalib.workspace import PROJECT, open_dataset

_TIMED = 5  # steps
_ARMS = 3  # that chapter 5 trains with each seed, chapter 4's two among them


def run(notebook: Path, output: Path, parameters: dict | None = None) -> None:
    """Executes ``notebook`` with ``parameters`` and writes it to ``output``, without papermill's notes, and of explorers only
    the picture. Raises SystemExit with one sentence if a cell fails or the kernel dies; what was done stays beside it."""
    partial = output.with_name(f"{output.stem}.partial.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    options = {"record_timing": False, "store_widget_state": False, "coalesce_streams": True}  # of nbclient
    try:
        papermill.execute_notebook(notebook, partial, parameters, cwd=notebook.parent, **options)
    except (PapermillExecutionError, DeadKernelError) as error:
        said = ": its kernel died, as where memory runs out; start again, what was finished is reused"
        if isinstance(error, PapermillExecutionError):
            said = f", cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise SystemExit(f"{notebook.name}{said}\nThe notebook as far as it went: {partial}") from error
    done = nbformat.read(partial, as_version=4)
    for part in (done, *done.cells):
        part.metadata.pop("papermill", None)
    for result in (result for cell in done.cells for result in cell.get("outputs", [])):
        if "image/png" in result.get("data", {}):  # a widget would ask for a kernel that is gone
            result.data.pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(done, partial)
    os.replace(partial, output)


def make(
    names: Sequence[str] = (), profile: str = "standard", dataset: str = "synthetic", data_root: Path | None = None
) -> None:
    """Executes the workbook's notebooks whose names begin with one of ``names``, by default all: in place for rendered faces at
    the standard profile, else into ``build/<profile>/``, or ``build/<dataset>-<profile>/`` for real data. Of those, what was
    executed before with the same folder of data, and is newer than its notebook, stays."""
    chosen = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not chosen:
        raise FileNotFoundError(f"there are no notebooks in {PROJECT / 'notebooks'}: they run in a copy of the whole project")
    chosen = [path for path in chosen if path.name.startswith(tuple(names) or "")]
    if not chosen:
        raise ValueError(f"no notebook's name begins with {' or '.join(names)}")
    real = {"DATASET": dataset, "DATA_ROOT": str(data_root)} if dataset != "synthetic" else {}
    in_place = not real and profile == "standard"
    for notebook in chosen:
        start = time.monotonic()
        output = PROJECT / "build" / (f"{dataset}-{profile}" if real else profile) / notebook.name
        if real and _done(notebook, output, str(data_root)):
            print(f"{notebook.name}: done before; delete {output} to have it again", flush=True)
            continue
        run(notebook, output, None if in_place else {"PROFILE": profile, **real})
        if in_place:
            os.replace(output, notebook)
        print(f"{notebook.name}: {time.monotonic() - start:.0f} s", flush=True)


def _done(notebook: Path, output: Path, data_root: str) -> bool:
    if not output.is_file() or output.stat().st_mtime < notebook.stat().st_mtime:
        return False
    return any(f'DATA_ROOT = "{data_root}"' in cell.source for cell in nbformat.read(output, as_version=4).cells)


def forecast(dataset: str, data_root: Path, profile: str) -> str:
    """How long the chapters' training will take, from some first steps on this machine: sentences with the arithmetic."""
    photos = open_dataset(dataset, data_root, profile, 0, "train")
    config, seeds, device = PROFILES[profile].train_config(schema=photos.schema), PROFILES[profile].seeds, pick_device()
    learns, times = Training(RetinaFace(config.model).train(), config, device), []
    size = min(config.batch_size, len(photos))
    keys = islice(batch_keys(len(photos), size, 0, 1 + _TIMED), 1 + _TIMED)
    crops = AugmentedPhotos(photos, config.image_size, config.augment, 0)
    with reading(crops, keys, min(8, os.cpu_count() or 1), pin_memory=device.type == "cuda") as stream:
        for images, targets, _ in stream:
            learns.step(images, targets, 0, 100)
            times.append(time.perf_counter())
    taken, steps, runs = (times[-1] - times[0]) / _TIMED, len(photos) // size, _ARMS * seeds
    hours = steps * config.epochs * taken / 3600
    return (
        f"A step of {size} crops of {config.image_size} px takes {taken:.2f} s on this {device} (mean of {_TIMED}).\n"
        f"A run: {steps} steps × {config.epochs} epochs × {taken:.2f} s = {hours:.1f} hours.\n"
        f"Chapters 4 and 5: {_ARMS} arms × {seeds} seeds = {runs} runs = {runs * hours:.1f} hours, one by one, without "
        "validation; chapter 2 adds two short ones. Finished runs are reused."
    )

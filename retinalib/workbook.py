"""Runs the notebooks in their order: ``retinalib workbook``, which is what ``make workbook`` does."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from retinalib.config import PROFILES
from retinalib.workspace import PROJECT


def run(notebook: Path, output: Path, parameters: dict | None = None) -> None:
    """Executes ``notebook`` with ``parameters`` and writes it to ``output``, without papermill's notes, and of explorers only
    the picture. Raises SystemExit with one sentence if a cell fails or the kernel dies; what was done is left beside
    ``output``."""
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


def make(names: Sequence[str] = (), profile: str = "standard") -> None:
    """Executes the workbook's notebooks whose names begin with one of ``names``, by default all: in place at the standard
    profile, at another one into ``build/<profile>/``."""
    if profile not in PROFILES:
        raise ValueError(f"the profile must be one of {', '.join(PROFILES)}; got '{profile}'")
    chosen = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not chosen:
        raise FileNotFoundError(f"there are no notebooks in {PROJECT / 'notebooks'}: they run in a copy of the whole project")
    chosen = [path for path in chosen if path.name.startswith(tuple(names) or "")]
    if not chosen:
        raise ValueError(f"no notebook's name begins with {' or '.join(names)}")
    standard = profile == "standard"
    for notebook in chosen:
        start = time.monotonic()
        output = PROJECT / "build" / profile / notebook.name
        run(notebook, output, None if standard else {"PROFILE": profile})
        if standard:
            os.replace(output, notebook)
        print(f"{notebook.name}: {time.monotonic() - start:.0f} s", flush=True)

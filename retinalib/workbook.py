"""Runs the notebooks in their order: ``retinalib workbook``, which is what ``make workbook`` does.

Each notebook is executed into ``build/`` and takes its place in ``notebooks/`` only when it is finished, so that an
interruption leaves the notebooks as they were. Rendered faces and finished training runs are reused.
"""

from __future__ import annotations

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


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Removes what differs from machine to machine (papermill's notes, timings) and all but the last state of progress bars.

    A bar that was redrawn in pieces is put together first. Of an explorer its picture stays: the widget would ask for a kernel
    that is no longer there.
    """
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
            if output.output_type == "stream":
                lines = output.text.split("\n")
                output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs with neighbouring texts of one stream made one."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream" and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def run(notebook: Path, output: Path, parameters: dict | None = None) -> None:
    """Executes ``notebook`` with ``parameters`` and writes it, cleaned, to ``output``.

    Raises SystemExit with one sentence if a cell fails or the kernel dies; the notebook as far as it went is left beside
    ``output``.
    """
    partial = output.with_name(f"{output.stem}.partial.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(notebook, partial, parameters, cwd=notebook.parent, log_output=False)
    except PapermillExecutionError as error:
        raise SystemExit(
            f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook as far as it went: {partial}"
        ) from error
    except DeadKernelError as error:
        raise SystemExit(
            f"{notebook.name}: its kernel died, as where memory runs out; start again, what was finished is reused\n"
            f"The notebook as far as it went: {partial}"
        ) from error
    nbformat.write(clean(nbformat.read(partial, as_version=4)), partial)
    output.parent.mkdir(parents=True, exist_ok=True)
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
    standard, begin = profile == "standard", time.monotonic()
    for notebook in chosen:
        start = time.monotonic()
        output = PROJECT / "build" / profile / notebook.name
        run(notebook, output, None if standard else {"PROFILE": profile})
        if standard:
            os.replace(output, notebook)
        print(f"{notebook.name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(chosen)} notebooks in {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    import sys

    from retinalib.cli import main

    main(["workbook", *sys.argv[1:]], "retinalib")

"""The notebooks run from end to end at their quick profile, on rendered and on real faces."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from retinalib.workbook import run
from retinalib.workspace import PROJECT
from tests.shared import SHARED, needs_shared

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def named_figures(notebook):
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return set(re.findall(r'save_figure\([^\n]*"(\d\d_\w+)"', source))


def test_there_are_six_chapters():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_at_the_quick_profile(path, workbook, tmp_path):
    names = {node.id for node in ast.walk(ast.parse(_parameters(path))) if isinstance(node, ast.Name)}
    run(path, tmp_path / path.name, {knob: value for knob, value in workbook.items() if knob in names})
    done = nbformat.read(tmp_path / path.name, 4)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())
    figures = named_figures(done)
    assert figures
    for name in figures:
        for suffix in ("png", "pdf"):
            assert (Path(workbook["FIGURES"]) / f"{name}.{suffix}").stat().st_size > 1000


@needs_shared
@pytest.mark.parametrize("path", NOTEBOOKS[:3], ids=lambda p: p.stem)
def test_real_faces(path, tmp_path):
    parameters = {
        "DATASET": "wflw",
        "DATA_ROOT": str(SHARED / "real_faces"),
        "SPLIT": "test",
        "PROFILE": "quick",
        "FIGURES": str(tmp_path),
    }
    run(path, tmp_path / path.name, {knob: value for knob, value in parameters.items() if f"{knob} =" in _parameters(path)})
    assert len(list(tmp_path.glob(f"{path.name[:2]}_*.png"))) >= 4


def _parameters(path):
    cells = nbformat.read(path, 4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name} needs one cell tagged 'parameters'"
    return tagged[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_form(path):
    """Executed as a whole and in order, small, without errors and without traces of a machine."""
    text = path.read_text()
    assert len(text) < 2_000_000
    assert not re.search(r"/(home|root|Users|tmp|work)/", text)
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert all(line.strip() == "" or "#" in line for line in _parameters(path).splitlines()), "every knob has a comment"

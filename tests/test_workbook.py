import nbformat
import pytest

from retinalib.workbook import run


def write(path, *sources, parameters="X = 1"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


EXPLORER = """
from matplotlib.figure import Figure
from ipywidgets import IntSlider
from retinalib.widgets.explorer import Explorer
Explorer({'k': IntSlider(value=3)}, lambda k: (Figure(figsize=(k, 1)), f'{k} inches'))
"""


def test_runs_with_parameters_and_leaves_what_is_to_be_read(tmp_path):
    """Nothing of the machine, of a progress bar the last state, of an explorer the picture."""
    bar = "\n".join(f"print('{piece}', end='', flush=True)" for piece in ("a\\r 10%", "\\r100%\\nend\\n"))
    write(tmp_path / "a.ipynb", "print(X + 1)", bar, EXPLORER)
    run(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb", {"X": 41})
    done = nbformat.read(tmp_path / "out" / "a.ipynb", 4)
    (number,), (progress,), (explorer,) = (cell.outputs for cell in done.cells[-3:])
    assert number.text == "42\n" and progress.text == "100%\nend\n"
    assert set(explorer.data) == {"image/png", "text/plain"} and explorer.data["text/plain"] == "3 inches"
    assert not {"papermill", "widgets"} & set(done.metadata) and str(tmp_path) not in (tmp_path / "out" / "a.ipynb").read_text()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ipynb"]


def test_a_failing_cell_is_named_and_the_notebook_stays(tmp_path):
    write(tmp_path / "a.ipynb", "raise ValueError('no such photo')")
    before = (tmp_path / "a.ipynb").read_bytes()
    with pytest.raises(SystemExit, match=r"a\.ipynb, cell 2: ValueError: no such photo"):
        run(tmp_path / "a.ipynb", tmp_path / "a.ipynb")
    assert (tmp_path / "a.ipynb").read_bytes() == before


def test_a_kernel_that_dies_is_named(tmp_path):
    write(tmp_path / "a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SystemExit, match=r"a\.ipynb: its kernel died, as where memory runs out"):
        run(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.partial.ipynb"]

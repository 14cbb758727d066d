import nbformat
import pytest

from retinalib.workbook import run


def write(path, *sources, parameters="X = 1"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def test_runs_with_parameters_and_leaves_nothing_of_the_machine(tmp_path):
    write(tmp_path / "a.ipynb", "print(X + 1)")
    run(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb", {"X": 41})
    done = nbformat.read(tmp_path / "out" / "a.ipynb", 4)
    assert done.cells[-1].outputs[0].text == "42\n"
    assert "papermill" not in done.metadata and str(tmp_path) not in (tmp_path / "out" / "a.ipynb").read_text()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ipynb"]


def test_a_failing_cell_is_named_and_the_notebook_stays(tmp_path):
    write(tmp_path / "a.ipynb", "raise ValueError('no such photo')")
    before = (tmp_path / "a.ipynb").read_bytes()
    with pytest.raises(SystemExit, match=r"a\.ipynb, cell 2: ValueError: no such photo"):
        run(tmp_path / "a.ipynb", tmp_path / "a.ipynb")
    assert (tmp_path / "a.ipynb").read_bytes() == before


def test_progress_bars_keep_their_last_state(tmp_path):
    pieces = ["a\\r 10%", "\\r100%\\nend\\n"]
    write(tmp_path / "a.ipynb", "\n".join(f"print('{piece}', end='', flush=True)" for piece in pieces))
    run(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    (output,) = nbformat.read(tmp_path / "b.ipynb", 4).cells[-1].outputs
    assert output.text == "100%\nend\n"


def test_an_explorer_leaves_its_picture(tmp_path):
    write(
        tmp_path / "a.ipynb",
        "from matplotlib.figure import Figure\n"
        "from ipywidgets import IntSlider\n"
        "from retinalib.widgets.explorer import Explorer\n"
        "Explorer({'k': IntSlider(value=3)}, lambda k: (Figure(figsize=(k, 1)), f'{k} inches'))",
    )
    run(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    done = nbformat.read(tmp_path / "b.ipynb", 4)
    (output,) = done.cells[-1].outputs
    assert set(output.data) == {"image/png", "text/plain"} and output.data["text/plain"] == "3 inches"
    assert "widgets" not in done.metadata


def test_a_kernel_that_dies_is_named(tmp_path):
    write(tmp_path / "a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SystemExit, match=r"a\.ipynb: its kernel died, as where memory runs out"):
        run(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.partial.ipynb"]

"""The notebooks run from end to end at their quick profile, and show the layers that the library has."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from retinalib.model import ModelConfig, RetinaFace
from retinalib.workbook import run
from retinalib.workspace import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def parameters(path):
    cells = nbformat.read(path, 4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name} needs one cell tagged 'parameters'"
    return tagged[0]


def test_the_chapters_are_numbered():
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, 9))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_at_the_quick_profile(path, workbook, tmp_path):
    workbook = workbook | {"FAULTS": ["se16"]}  # no fault, but an arm that is trained already
    names = {node.id for node in ast.walk(ast.parse(parameters(path))) if isinstance(node, ast.Name)}
    run(path, tmp_path / path.name, {knob: value for knob, value in workbook.items() if knob in names})
    code = [cell for cell in nbformat.read(tmp_path / path.name, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())
    named = set(re.findall(r'save_figure\([^\n]*"(\d\d_\w+)"', "\n".join(cell.source for cell in code)))
    assert 4 <= len(named) <= 11
    drawn = {file for file in Path(workbook["FIGURES"]).glob(f"{path.name[:2]}_*.png") if file.stat().st_size > 1000}
    assert {file.stem for file in drawn} == {name for name in named if not name[3:].startswith("real")}  # those need WFLW
    assert all(file.with_suffix(".pdf").stat().st_size > 1000 for file in drawn)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    """Title, imports, parameters with a comment each, setup; executed as a whole, small, without traces of a machine."""
    text, cells = path.read_text(), nbformat.read(path, 4).cells
    assert len(text) < 2_000_000
    assert not re.search(r"/(home|root|Users|tmp|work)/", text)
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert cells[0].source.startswith(f"# {int(path.name[:2])} · ") and code[2].source.startswith("retinalib.setup(SEED)")
    assert "import retinalib\n" in code[0].source and code[1].source == parameters(path)
    assert not any(re.search(r"(?m)^\s*(import|from \S+ import)\b", cell.source) for cell in code[1:])
    assert all("#" in line for line in parameters(path).splitlines()), "every knob has a comment"


def test_chapter_3_shows_the_layers_of_the_library():
    """What the cell defines, filled with the library's weights, gives what the library gives."""
    (source,) = (cell.source for cell in nbformat.read(NOTEBOOKS[2], 4).cells if cell.get("id") == "layers")
    shown = {"torch": torch, "nn": nn}
    exec(source, shown)
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(se_reduction=16))
    features = torch.randn(2, 64, 9, 7)
    for module in model.modules():  # as after some training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    pairs = [(shown["SSH"](64), model.ssh[0]), (shown["SqueezeExcitation"](64, 16), model.excitation[0])]
    heads = {2: model.class_head, 4: model.box_head, 196: model.landmark_head}
    pairs += [(shown["Head"](64, values), own[0]) for values, own in heads.items()]
    for notebook, library in pairs:
        notebook.load_state_dict(library.state_dict())
        result = library.eval()(features)
        if isinstance(library, nn.Conv2d):
            result = result.permute(0, 2, 3, 1).reshape(2, -1, notebook.values)
        torch.testing.assert_close(notebook.eval()(features), result)
    _, boxes, _ = model.eval().dense(torch.randn(1, 3, 64, 64))
    assert boxes.shape == (1, 2 * (8 * 8 + 4 * 4 + 2 * 2), 4)  # the order of anchors in a head is that of the cells

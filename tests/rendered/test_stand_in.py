"""The whole way of a user who has WFLW, on a stand-in: archives, lists, training, measures, audit, a chapter."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from retinalib import workbook
from retinalib.cli import main
from retinalib.config import PROFILES
from retinalib.datasets import archives, wflw, wider
from retinalib.files import write_text
from retinalib.rendered import stand_in
from retinalib.train import train
from retinalib.workspace import PROJECT, open_dataset


def call(*arguments):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return stand_in.make(tmp_path_factory.mktemp("stand-in") / "wflw", photos=60, size=96, workers=1)


def test_from_archives_to_measures(root, tmp_path):
    assert "complete: 59 train faces, 20 test faces" in call("datasets", "extract", "wflw", root)
    checked = call("datasets", "check", root)
    assert "train: photos 45, faces 59" in checked and "test: photos 15, faces 20" in checked and "nothing wrong" in checked
    sets = {split: open_dataset("wflw", root, "quick", 0, split) for split in ("train", "validation", "test")}
    assert [len(dataset) for dataset in sets.values()] == [41, 4, 15]
    assert all(dataset.complete for dataset in sets.values())  # by the box lists, which know every face
    assert len(sets["test"].table) > 20 and sets["test"].table["landmarks"].map(lambda p: p[0, 0] == p[0, 0]).sum() == 20
    config = PROFILES["quick"].train_config(epochs=1, schema=sets["train"].schema)
    history = train(config, sets["train"], sets["validation"], tmp_path / "run", "cpu", 0, progress=False)
    assert history["ap"].notna().any()
    place = ("evaluate", "--dataset", "wflw", "--data-root", root, "--checkpoint", "rendered98")
    found, boxed = ([line.split() for line in call(*place, *more).splitlines()] for more in ((), ["--given-boxes"]))
    assert [row[0] for row in found] == ["value", "AP", "found", "median", "failure", "median"] and float(found[2][1]) > 0.8
    assert boxed[0] == ["faces", "mean_nme", "failure_rate", "auc"] and boxed[1][:2] == ["test", "20"]


def test_one_command_to_a_report(root, tmp_path, monkeypatch):
    """Of the chapters the first, which trains nothing; what is done stays, unless the data are others."""
    chapter, run, asked = PROJECT / "notebooks/01_dataset_inspection.ipynb", workbook.run, []
    (tmp_path / "notebooks").mkdir()
    notebook = Path(shutil.copy(chapter, tmp_path / "notebooks"))
    monkeypatch.setattr(workbook, "PROJECT", tmp_path)
    figures = {"FIGURES": str(tmp_path / "figures")}
    monkeypatch.setattr(workbook, "run", lambda *places, knobs=figures: run(*places[:2], places[2] | knobs))
    said = call("wflw", root, "--profile", "quick")
    assert "nothing wrong" in said and f"{chapter.name}: " in said
    steps = f"10 steps × {PROFILES['quick'].epochs} epochs"
    assert "A step of 4 crops of 128 px takes" in said and steps in said and "3 arms × 2 seeds" in said
    assert (tmp_path / "build/wflw-quick" / chapter.name).is_file() and (tmp_path / "figures/01_sizes.png").is_file()
    monkeypatch.setattr(workbook, "run", lambda *places: asked.append(places[2]))
    assert f"{chapter.name}: done before" in call("wflw", root, "--profile", "quick") and not asked
    workbook.make(("01",), "quick", "wflw", tmp_path / "elsewhere")
    os.utime(notebook)
    workbook.make(("01",), "quick", "wflw", root.resolve())
    assert [knobs["DATA_ROOT"] for knobs in asked] == [str(tmp_path / "elsewhere"), str(root.resolve())]


def test_no_photo_is_in_both_lists_and_some_are_copies(root):
    call("datasets", "extract", "wflw", root)
    train, test = (set(wflw.read_annotations(root / wflw.LISTS.format(split=split))["image"]) for split in ("train", "test"))
    assert len(train) == 45 and len(test) == 15 and not train & test
    photos = [path.read_bytes() for path in (root / "WFLW_images").rglob("*.jpg")]
    assert len(photos) == 60 > len(set(photos))


def test_wider_faces_layout(tmp_path):
    root = stand_in.make(tmp_path / "wider", "wider", photos=40, size=96, workers=1)
    with zipfile.ZipFile(root / "WIDER_val.zip") as file:
        assert len(file.namelist()) == 8 and file.namelist()[0].startswith("WIDER_val/images/")
    faces = json.loads((root / archives.STAND_IN).read_text())["faces"]
    assert archives.prepare("wider", root) == faces
    assert len(wider.load_split(root, "test")) == 8


def test_other_peoples_archives_are_left_alone(tmp_path):
    (tmp_path / "WFLW_images.tar.gz").write_bytes(b"theirs")
    with pytest.raises(ValueError, match="holds other archives, or a stand-in made otherwise: take an empty folder"):
        stand_in.make(tmp_path, photos=20, size=64)
    assert (tmp_path / "WFLW_images.tar.gz").read_bytes() == b"theirs"


def test_an_interrupted_one_goes_on_and_another_is_refused(tmp_path):
    options = {"photos": 20, "size": 64, "workers": 1}
    root = stand_in.make(tmp_path, **options)
    (root / "WFLW_images.tar.gz").unlink()
    stand_in.make(tmp_path, **options)
    with tarfile.open(root / "WFLW_images.tar.gz") as file:
        assert len(file.getnames()) == 20
    with pytest.raises(ValueError, match="made otherwise"):
        stand_in.make(tmp_path, **options | {"photos": 30})
    archives.prepare("wflw", root)
    marker = json.loads((root / archives.STAND_IN).read_text())
    marker["faces"]["train"] += 1
    write_text(root / archives.STAND_IN, json.dumps(marker))
    with pytest.raises(ValueError, match="not the official ones"):
        archives.prepare("wflw", root)

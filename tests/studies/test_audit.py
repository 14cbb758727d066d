import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.audit import PLANTED, find
from retinalib import rendered
from retinalib.checkpoint import save_model
from retinalib.cli import main
from retinalib.datasets.archives import prepare
from retinalib.datasets.wflw import IMAGES
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.rendered import stand_in
from retinalib.rendered.dataset import render_face
from retinalib.studies import audit


@pytest.fixture(scope="module")
def people():
    """Faces of :func:`retinalib.studies.audit.look` with predictions that are off by a pixel or so."""
    rng, rows = np.random.default_rng(0), []
    for person in range(12):
        faces = render_face(yaw=3.0 * person - 18, size=160, person=person)[1]
        points = faces.landmarks[0]
        about = {"file": "a.txt", "line": person + 1, "image": f"{person}.jpg", "face": 0, "size": faces.size[0]}
        rows.append({**about, "box": faces.boxes[0], "labels": points, "predicted": points + rng.normal(0, 1, points.shape)})
    return pd.DataFrame(rows)


def test_faults_are_named_and_come_first(people):
    flip, eyes = list(WFLW_98.flip_order), [*WFLW_98.right_eye.points(), *WFLW_98.left_eye.points()]
    labels = [points.copy() for points in people["labels"]]
    labels[3], labels[5] = labels[3][flip], labels[5] + [20, -9]
    labels[7][eyes] = labels[7][flip][eyes]
    labels[8][:33] = np.nan  # unknown points are no fault
    labels[9] = labels[9][::-1].copy()
    table = audit.disputed(people.assign(labels=labels), WFLW_98)
    assert set(table["line"][:4]) == {4, 6, 8, 10} and table["dispute"].is_monotonic_decreasing
    kinds = table.set_index("line")["kind"]
    assert kinds[[4, 6, 8, 10]].tolist() == ["mirrored order", "shifted", "swapped eyes", "other"]
    face = table.set_index("line").loc[6]
    assert face["nme"] == pytest.approx(np.hypot(20, 9) / face["size"], rel=0.05) and face["nme if shifted"] < 0.03
    assert kinds[[1, 2, 9]].tolist() == ["other"] * 3 and table["nme"].iloc[4:].max() < 0.03


def test_planted_faults_are_found(tmp_path):
    dataset = rendered.load(rendered.make(tmp_path, 20, seed=3, size=200, workers=1, progress=False), "train")
    table = find(dataset, 4, seed=1)
    assert sorted(table["planted"][:4]) == sorted(PLANTED) and len(table) > 20
    named = table[table["planted"].isin(PLANTED[:3])]
    assert (named["kind"] == named["planted"]).all()


def test_near_duplicates_are_grouped_and_those_across_lists_come_first():
    rng = np.random.default_rng(0)
    bits = rng.random((5, 64)) < 0.5
    near, far = bits[1].copy(), bits[2].copy()
    near[:3], far[:9] = ~near[:3], ~far[:9]
    hashes = pd.DataFrame({"file": ["a", "a", "a", "a", "b", "b", "a"], "image": list("tuvwxyz")})
    hashes["hash"] = [*bits[:4], near, far, bits[3]]
    table = audit.duplicates(hashes)
    assert table["image"].tolist() == ["u", "x", "w", "z"] and table["across"].tolist() == [True, True, False, False]
    assert table["differing"].tolist() == [0, 3, 0, 0] and table["group"].nunique() == 2
    assert audit.duplicates(hashes[:4]).empty


def test_of_wider_faces_layout_photos_are_audited_and_labels_where_the_network_has_them(tmp_path):
    root = stand_in.make(tmp_path / "wider", "wider", photos=24, size=96, workers=1)
    call = lambda *words: CliRunner().invoke(main, ["datasets", *map(str, words)])  # noqa: E731
    assert call("extract", "wider", root).exit_code == 0
    said = call("audit", root, "--out", tmp_path / "boxes", "--checkpoint", "rendered98", "--device", "cpu")
    assert said.exit_code == 0 and "photos 24" in said.output and "no labels were audited" in said.output
    assert [path.name for path in (tmp_path / "boxes").iterdir()] == ["duplicates.csv"]
    labels = root / "retinaface_gt_v1.1/train/label.txt"
    name = next((root / "WIDER_train/images").rglob("*.jpg")).relative_to(root / "WIDER_train/images")
    labels.parent.mkdir(parents=True)
    labels.write_text(f"# {name}\n5 5 40 40 15 20 0 35 20 0 25 28 0 17 36 0 33 36 0\n50 50 9 9\n")
    save_model(RetinaFace(ModelConfig(schema=WIDER_5)), tmp_path / "five.pt")
    said = call("audit", root, "--out", tmp_path / "five", "--checkpoint", tmp_path / "five.pt", "--device", "cpu")
    assert said.exit_code == 0, said.output
    assert "labelled faces 1," in said.output and pd.read_csv(tmp_path / "five/audit.csv")["line"].tolist() == [2]


def test_of_wflws_layout_labels_are_audited_with_a_contact_sheet(tmp_path):
    root = stand_in.make(tmp_path / "wflw", photos=30, size=96, workers=1)
    prepare("wflw", root)
    options = ["--out", str(tmp_path), "--checkpoint", "rendered98", "--device", "cpu"]
    said = CliRunner().invoke(main, ["datasets", "audit", str(root), *options])
    assert said.exit_code == 0 and "photos 30, " in said.output and "labelled faces 40," in said.output
    photos = {path.relative_to(root / IMAGES).as_posix(): path.read_bytes() for path in (root / IMAGES).rglob("*.jpg")}
    twice, faces = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("duplicates", "audit"))
    copied = pd.Series(photos).duplicated(keep=False)
    assert copied.any() and set(copied.index[copied]) <= set(twice["image"]) and not twice["across"].any()
    assert len(faces) == 40 and faces["dispute"].is_monotonic_decreasing and faces["file"].nunique() == 2
    assert cv2.imread(str(tmp_path / "worst.png")).shape[1] > 1000

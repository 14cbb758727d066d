"""The explorers are driven by their controls' values, as a hand would."""

import base64
import re
import threading
from datetime import UTC, datetime

import cv2
import numpy as np
import pandas as pd
import pytest

from retinalib import rendered
from retinalib.anchors import AnchorConfig
from retinalib.datasets.describe import describe_faces
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, load_detector
from retinalib.faces import Faces
from retinalib.landmarks import WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.rendered.clip import make_clip
from retinalib.runs import Stopped
from retinalib.studies.anchor_coverage import coverage
from retinalib.tracking import track
from retinalib.widgets.anchors import anchor_explorer, ladder
from retinalib.widgets.dataset import dataset_browser
from retinalib.widgets.detection import detection_explorer
from retinalib.widgets.features import feature_viewer
from retinalib.widgets.pupils import pupil_explorer
from retinalib.widgets.traces import trace_explorer
from retinalib.widgets.training import training_view, watch


@pytest.fixture
def dataset(sets):
    return sets[0]


class Told:
    """A detector that answers with what it is given, and counts how often it is asked."""

    def __init__(self, detector, answer):
        self.model, self.answer, self.asked = detector.model, answer, 0

    def detect(self, *_, **__):
        self.asked += 1
        return self.answer


def changes(explorer, **values):
    """Sets controls one after the other; each must change the picture, which stays a PNG."""
    for name, value in values.items():
        before = explorer.picture.value
        explorer.controls[name].value = value
        assert explorer.picture.value != before, f"{name} = {value} changes nothing"
        assert bytes(explorer.picture.value).startswith(b"\x89PNG")


def test_a_host_without_widgets_gets_the_picture(dataset):
    explorer = dataset_browser(dataset)
    changes(explorer, face=2)
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]) == explorer.picture.value
    assert bundle["text/plain"].startswith(f"2 of {len(dataset.table)} faces")


def test_browsing(dataset):
    explorer, count = dataset_browser(dataset), len(dataset.table)
    controls = explorer.controls
    assert explorer.sentence.value.startswith(f"1 of {count} faces")
    first = explorer.picture.value
    controls["next"].click()
    assert controls["face"].value == 2 and explorer.picture.value != first
    controls["previous"].click()
    controls["previous"].click()  # there is none before the first
    assert controls["face"].value == 1 and explorer.picture.value == first
    changes(explorer, face=count, numbers=True, region="left eye")


def test_filters_and_their_counts(dataset):
    explorer, table = dataset_browser(dataset), dataset.table
    controls = explorer.controls
    name = max(("pose", "expression", "occlusion", "make_up"), key=lambda n: table[n].sum())
    extent = table[["x2", "y2"]].to_numpy() - table[["x1", "y1"]].to_numpy()
    size = np.sqrt(extent.prod(1))
    controls["attribute"].value = name
    assert 0 < table[name].sum() < len(table)
    assert explorer.sentence.value.startswith(f"1 of {table[name].sum()} faces") and controls["face"].max == table[name].sum()
    controls["attribute"].value = "none"
    plain = ~table[["pose", "expression", "illumination", "make_up", "occlusion", "blur"]].any(axis=1)
    assert explorer.sentence.value.startswith(f"1 of {plain.sum()} faces: no attribute")
    controls["attribute"].value = "any"
    middle = int(np.median(size))
    controls["sizes"].value = (controls["sizes"].min, middle)
    assert explorer.sentence.value.startswith(f"1 of {(size <= middle).sum()} faces")
    controls["sizes"].value = (controls["sizes"].min, controls["sizes"].max)
    controls["text"].value = "COUPLE"
    couples = table["image"].str.contains("Couple").sum()
    assert explorer.sentence.value.startswith(f"1 of {couples} faces")
    controls["text"].value = "(no such"
    assert explorer.sentence.value == f"0 of {len(table)} faces"
    controls["next"].click()
    controls["text"].value = ""
    assert explorer.sentence.value.startswith(f"1 of {len(table)} faces")
    controls["odd"].value = True
    described = describe_faces(dataset)
    odd = (described[["outside_photo", "outside_box", "repeated", "twin"]] > 0).any(axis=1).sum()
    assert explorer.sentence.value.startswith(f"1 of {odd} faces") and " landmarks outside the " in explorer.sentence.value


def test_a_photo_that_is_gone_is_named(dataset, tmp_path):
    table = pd.concat([dataset.table[dataset.table["image"] == name] for name in dataset.names[:2]])
    for name in table["image"].unique():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((dataset.images_root / name).read_bytes())
    explorer = dataset_browser(FaceDataset(table.reset_index(drop=True), tmp_path))
    (tmp_path / dataset.names[1]).unlink()
    explorer.controls["face"].value = len(table)
    assert "no image at" in explorer.sentence.value and dataset.names[1] in explorer.sentence.value
    explorer.controls["face"].value = 1
    assert explorer.sentence.value.startswith("1 of")


def test_anchors(dataset, monkeypatch):
    assert ladder((8, 16, 32), 16, 2, 2.0) == AnchorConfig() and ladder((16, 32), 10, 1, 3.0).sizes == ((10,), (30,))
    explorer = anchor_explorer(dataset)
    changes(explorer, image_size=160, threshold=0.6, strides="4, 8, 16, 32", per_cell=1, ratio=2.83, smallest=32, face=1)
    faces = [dataset.faces(n) for n in range(len(dataset))]
    table = coverage(faces, 160, ladder((4, 8, 16, 32), 32, 1, 2.83), 0.6, 0.2)
    shares = [f"{(table['kind'] == kind).mean():.1%} {kind}" for kind in ("matched", "kept", "missed")]
    assert explorer.sentence.value.startswith(f"{len(table)} faces: {', '.join(shares)}.")
    assert f"{40 * 40 + 20 * 20 + 10 * 10 + 5 * 5:,} per image" in explorer.sentence.value
    monkeypatch.setattr("retinalib.widgets.anchors._MOST_FACES", len(dataset.table) // 2)
    used = sum(len(faces) for faces in faces[::3])
    assert len(dataset.table) % 2  # so that every third photo is taken
    assert anchor_explorer(dataset).sentence.value.startswith(f"{used} of {len(dataset.table)} faces")


def test_features(dataset, detector):
    explorer = feature_viewer(load_detector("rendered98-se16", "cpu"), dataset)
    changes(explorer, photo=2, level=32, rank=5)
    assert "stride 32: 64 channels of 5 × 5 cells; channel " in explorer.sentence.value
    assert ", rank 5, gate 0." in explorer.sentence.value
    without_se = feature_viewer(detector, dataset)
    assert without_se.sentence.value.endswith("the mean of all")
    changes(without_se, level=16, rank=64)
    assert "rank 64, mean |activation|" in without_se.sentence.value


def test_detections_of_two_detectors(dataset, detector):
    three = rendered.render_face(size=160)[1][[0, 0, 0]]
    three.scores = np.array([0.95, 0.5, 0.1], np.float32)
    given = Told(detector, three)
    explorer = detection_explorer({"real": detector, "given": given}, dataset)
    assert "given finds 2 with a score of at least 0.50" in explorer.sentence.value
    changes(explorer, photo=3, landmarks=False, truth=False)
    asked = given.asked
    changes(explorer, score=0.05)
    assert "given finds 3 with a score of at least 0.05" in explorer.sentence.value
    changes(explorer, score=0.9)
    assert given.asked == asked  # the score asks no detector anything
    explorer.controls["nms"].value = 0.7
    for photo in (1, 3, 1):
        explorer.controls["photo"].value = photo
    assert given.asked == asked + 2  # photo 3, photo 1, and neither a second time
    found = detector.detect(dataset[0][0], 0.9, 0.7)
    name = dataset.names[0].rpartition("/")[2]
    assert explorer.sentence.value.startswith(name) and f"real finds {len(found)}, given finds 1 " in explorer.sentence.value
    with pytest.raises(ValueError, match="one or two detectors, got 3"):
        detection_explorer(dict.fromkeys("abc", detector), dataset)


def test_upload(dataset, detector):
    explorer = detection_explorer({"rendered98": detector}, dataset)
    before = explorer.picture.value
    image = rendered.render_face(size=160, person=4)[0]
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    explorer.controls["upload"].value = (_file("me.png", data[:200]),)
    assert explorer.sentence.value == "me.png is not an image that can be read (200 bytes)"
    assert explorer.picture.value == before
    explorer.controls["upload"].value = (_file("me.png", data),)
    assert explorer.sentence.value == "your photo: rendered98 finds 1 with a score of at least 0.50"
    assert explorer.picture.value != before
    changes(explorer, landmarks=False, photo=2)
    assert dataset.names[1].rpartition("/")[2] in explorer.sentence.value


def _file(name, data):
    about = {"type": "image/png", "size": len(data), "last_modified": datetime.now(UTC)}
    return {"name": name, "content": memoryview(data), **about}


def test_pupils(detector):
    explorer = pupil_explorer(detector)
    changes(explorer, yaw=15, pitch=5, roll=-10, gaze_yaw=20, gaze_pitch=-5, lids=0.8, person=3, size=192)
    assert "found with a score of" in explorer.sentence.value


def test_pupils_of_a_detector_that_knows_the_truth_and_of_one_that_finds_nothing(detector):
    _, truth = rendered.render_face(gaze=(12, 0), size=256)
    explorer = pupil_explorer(Told(detector, truth))
    explorer.controls["gaze_yaw"].value = 12
    degrees = [float(d) for d in re.findall(r"([\d.]+)°", explorer.sentence.value)]
    assert len(degrees) == 2 and max(degrees) < 8  # the geometry's own error
    explorer.controls["gaze_yaw"].value = -30
    assert min(float(d) for d in re.findall(r"([\d.]+)°", explorer.sentence.value)) > 30
    explorer = pupil_explorer(Told(detector, rendered.render_face(lids=0, size=256)[1]))
    assert explorer.sentence.value.count("closed") == 2 and "nan" not in explorer.sentence.value
    explorer = pupil_explorer(Told(detector, Faces.empty()))
    assert explorer.sentence.value == "no face found with a score of at least 0.3"
    with pytest.raises(ValueError, match="98 landmarks, this one has 5"):
        pupil_explorer(Detector(RetinaFace(ModelConfig(schema=WIDER_5)), "cpu"))


def test_training(tmp_path):
    run, other = tmp_path / "no-se-0", tmp_path / "se16-0"
    explorer = training_view([run, other])
    assert explorer.sentence.value == "no-se-0: no epoch yet; se16-0: no epoch yet"
    rows = pd.DataFrame({"epoch": [1, 2], "total": [9.0, 7.5], "landmark": [5.0, 4.0]})
    run.mkdir()
    rows.to_csv(run / "metrics.csv", index=False)
    before = explorer.picture.value
    explorer.update()
    assert explorer.picture.value != before
    assert explorer.sentence.value == "no-se-0: epoch 2, loss 7.50; se16-0: no epoch yet"
    before = explorer.picture.value
    rows.assign(ap=[np.nan, 0.5], nme=[np.nan, 0.12]).to_csv(run / "metrics.csv", index=False)
    (run / "pictures").mkdir()
    cv2.imwrite(str(run / "pictures" / "002.jpg"), np.full((60, 200, 3), 90, np.uint8))
    explorer.controls["refresh"].click()
    assert explorer.picture.value != before
    assert "no-se-0: epoch 2, loss 7.50, AP 0.500, NME 12.0%" in explorer.sentence.value
    changes(explorer, run=1)  # which has no picture yet
    same = tmp_path / "new" / run.name  # runs of one name are told apart by their folders
    same.mkdir(parents=True)
    assert training_view([run, same]).sentence.value.endswith("; new/no-se-0: no epoch yet")
    training_view(str(run))
    with pytest.raises(ValueError, match="no run folder"):
        training_view([])


def test_watching_a_training(tmp_path, monkeypatch):
    run, shown = tmp_path / "no-se-0", []
    run.mkdir()
    monkeypatch.setattr("retinalib.widgets.training.display", lambda view, **_: shown.append(view))

    def training():
        drawn = threading.Event()
        shown[0].picture.observe(lambda _: drawn.set(), "value")
        pd.DataFrame({"epoch": [1], "total": [9.0], "landmark": [5.0]}).to_csv(run / "metrics.csv", index=False)
        assert drawn.wait(60), "the view does not follow"
        shown[0].controls["stop"].click()
        assert (run / "stop").is_file()
        raise Stopped("1 of 3 epochs are kept")

    with pytest.raises(Stopped, match="1 of 3"):
        watch([run], training)
    assert shown[0].sentence.value == "no-se-0: epoch 1, loss 9.00"
    assert watch([run], lambda: 3) == 3


def test_trace_explorer(detector, tmp_path):
    path, _ = make_clip(tmp_path, 5, 0.5, (320, 240))
    trace = track(path, detector)
    explorer = trace_explorer(path, trace[trace["frame"] != 7])
    assert "frame 0, 0.00 s, detected: gaze" in explorer.sentence.value
    changes(explorer, frame=5)
    assert "frame 5, 0.17 s, followed by the second looks" in explorer.sentence.value
    changes(explorer, frame=7)
    assert "the face is not seen" in explorer.sentence.value
    with pytest.raises(ValueError, match="no face in the trace"):
        trace_explorer(path, trace[:0])

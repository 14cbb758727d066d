"""The plain way and the fast way give the same; that the benchmark itself runs."""

import json

import numpy as np
import pytest
import torch

from retinalib import benchmark, load_detector
from retinalib.anchors import anchor_grid
from retinalib.datasets import synthetic, wider
from retinalib.datasets.synthetic import render_face
from retinalib.loss import LossConfig, multi_task_loss
from tests.shared import SHARED, needs_shared
from tests.test_loss import random_batch


@pytest.fixture(scope="module")
def detector():
    return load_detector("rendered98", "cpu")


def assert_same_faces(detector, image, threshold):
    fast = detector.detect(image, threshold)
    plain = benchmark.plain_detect(detector.model, image, threshold)
    assert len(fast) == len(plain)
    np.testing.assert_allclose(fast.scores, plain.scores, atol=1e-4)
    np.testing.assert_allclose(fast.boxes, plain.boxes, atol=0.01)
    np.testing.assert_allclose(fast.landmarks, plain.landmarks, atol=0.01)
    return len(fast)


def test_fast_detection_is_the_plain_on_rendered_pictures(detector):
    found = [
        assert_same_faces(detector, synthetic.draw_picture(3, number, size, (0, 9))[0], 0.5)
        for number, size in enumerate((320, 250, 401))
    ]
    assert sum(found) >= 3


@needs_shared
@pytest.mark.parametrize("name", ["rendered98", "reference"])
def test_fast_detection_is_the_plain_on_photos(name):
    path = SHARED / "reference/mobilenet0.25_Final.pth" if name == "reference" else name
    detector = load_detector(path, "cpu")
    real = SHARED / "real_faces"
    dataset = wider.load(real / "wider_face_val_bbx_gt.txt", real / "WFLW_images")
    assert sum(assert_same_faces(detector, dataset[number][0], 0.4) for number in range(0, 12, 3)) >= 4


def test_anchors_in_loops():
    for size in ((64, 96), (75, 33)):
        np.testing.assert_allclose(benchmark.plain_anchors(*size).numpy(), anchor_grid(*size).numpy(), atol=1e-6)


def test_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10.5]])
    assert benchmark.plain_nms(boxes, np.array([0.5, 0.9, 0.2, 0.6]), 0.4) == [1, 2]
    assert benchmark.plain_nms(np.zeros((0, 4)), np.zeros(0), 0.4) == []


@pytest.mark.parametrize("seed", range(3))
def test_fast_loss_is_the_plain(seed):
    anchors, targets, *given = random_batch(seed, faces=(1, 4, 0, 7))
    values, gradients = [], []
    for name in ("fast", "plain"):
        logits, boxes, dense = (t.clone().requires_grad_() for t in given)
        if name == "fast":
            total = multi_task_loss(logits, boxes, lambda i, a, d=dense: d[i, a], targets, anchors).total
        else:
            total = benchmark.plain_loss(logits, boxes, dense, targets, anchors, LossConfig())
        total.backward()
        values.append(float(total.detach()))
        gradients.append([t.grad for t in (logits, boxes, dense)])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_plain_crops_have_the_faces():
    image, faces = render_face(size=200)
    crop, kept = benchmark.plain_augment(image, faces, 96, np.random.default_rng(0))
    assert crop.shape == (96, 96, 3) and crop.dtype == np.uint8 and len(kept) == 1


def test_cost_counts_what_it_was_asked(monkeypatch):
    table = benchmark.cost((5, 40), (1, 9), size=128, repeats=1)
    assert table[["points", "faces"]].to_numpy().tolist() == [[5, 1], [5, 9], [40, 1], [40, 9]]
    assert (table["milliseconds"] > 0).all()
    with pytest.raises(ValueError, match="128 pixels hold no 100 faces"):
        benchmark.cost((5,), (100,), size=128, repeats=1)


def test_benchmark_runs_and_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    monkeypatch.setattr("sys.argv", ["benchmark", "--quick", "--json", str(tmp_path / "b.json")])
    benchmark.main()
    report = json.loads((tmp_path / "b.json").read_text())
    assert {row["group"] for row in report["milliseconds"]} >= {"detection", "training", "data", "evaluation", "rendering"}
    assert report["about"]["torch"] == torch.__version__.split("+")[0] and report["memory_mb"]["plain"] > 0
    assert "| loss, forward and backward" in capsys.readouterr().out.replace("training   ", "")

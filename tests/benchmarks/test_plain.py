"""The plain way and the fast way give the same."""

import numpy as np
import pytest
import torch

from benchmarks import plain
from retinalib import load_detector, rendered
from retinalib.anchors import anchor_grid
from retinalib.config import TrainConfig
from retinalib.datasets import wider
from retinalib.distributed import ALONE
from retinalib.loss import LossConfig, multi_task_loss
from retinalib.model import RetinaFace
from retinalib.rendered.dataset import render_face
from retinalib.train import make_optimiser, training_step
from tests.shared import SHARED, needs_shared
from tests.test_loss import random_batch


@pytest.fixture(scope="module")
def detector():
    return load_detector("rendered98", "cpu")


def assert_same_faces(detector, image, threshold):
    fast = detector.detect(image, threshold)
    slow = plain.plain_detect(detector.model, image, threshold)
    assert len(fast) == len(slow)
    np.testing.assert_allclose(fast.scores, slow.scores, atol=1e-4)
    np.testing.assert_allclose(fast.boxes, slow.boxes, atol=0.01)
    np.testing.assert_allclose(fast.landmarks, slow.landmarks, atol=0.01)
    return len(fast)


def test_fast_detection_is_the_plain_on_rendered_pictures(detector):
    found = [
        assert_same_faces(detector, rendered.draw_picture(3, number, size, (0, 9))[0], 0.5)
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
        np.testing.assert_allclose(plain.plain_anchors(*size).numpy(), anchor_grid(*size).numpy(), atol=1e-6)


def test_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10.5]])
    assert plain.plain_nms(boxes, np.array([0.5, 0.9, 0.2, 0.6]), 0.4) == [1, 2]
    assert plain.plain_nms(np.zeros((0, 4)), np.zeros(0), 0.4) == []


@pytest.mark.parametrize("seed", range(3))
def test_fast_loss_is_the_plain(seed):
    anchors, targets, *given = random_batch(seed, faces=(1, 4, 0, 7))
    values, gradients = [], []
    for name in ("fast", "plain"):
        logits, boxes, dense = (t.clone().requires_grad_() for t in given)
        if name == "fast":
            total = multi_task_loss(logits, boxes, lambda i, a, d=dense: d[i, a], targets, anchors).total
        else:
            total = plain.plain_loss(logits, boxes, dense, targets, anchors, LossConfig())
        total.backward()
        values.append(float(total.detach()))
        gradients.append([t.grad for t in (logits, boxes, dense)])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_plain_crops_have_the_faces():
    image, faces = render_face(size=200)
    crop, kept = plain.plain_augment(image, faces, 96, np.random.default_rng(0))
    assert crop.shape == (96, 96, 3) and crop.dtype == np.uint8 and len(kept) == 1


def test_fast_step_is_the_plain():
    """The weights after one step, from the same weights and batch."""
    targets, size = random_batch(0, faces=(1, 3))[1], 64
    anchors, config = anchor_grid(size, size), TrainConfig(image_size=size, optimiser="sgd", learning_rate=1e-3, weight_decay=0)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    losses, weights = [], []
    for name in ("fast", "plain"):
        torch.manual_seed(0)
        model = RetinaFace(config.model).train()
        optimiser = make_optimiser(model, config)
        if name == "fast":
            loss = training_step(model, optimiser, images, targets, anchors, config, torch.Generator(), ALONE)[0]
        else:
            loss = plain.plain_step(model, optimiser, images, targets, config.loss, config.clip_norm)
        losses.append(float(loss))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(weights[0].numpy(), weights[1].numpy(), atol=1e-5)

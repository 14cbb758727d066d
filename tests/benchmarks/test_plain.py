"""The plain way and the fast way give the same."""

import numpy as np
import pytest
import torch

from benchmarks import plain
from retinalib import load_detector, rendered
from retinalib.anchors import anchor_grid
from retinalib.config import TrainConfig
from retinalib.datasets import wider
from retinalib.model import RetinaFace
from retinalib.train import Training
from tests.shared import SHARED, needs_shared
from tests.test_loss import random_batch


def assert_same_faces(detector, images, least):
    """At a score of 0.4, on at least so many faces."""
    count = 0
    for image in images:
        fast, slow = detector.detect(image, 0.4, pyramid=False), plain.plain_detect(detector.model, image, 0.4)
        assert len(fast) == len(slow)
        np.testing.assert_allclose(fast.scores, slow.scores, atol=1e-4)
        np.testing.assert_allclose(fast.boxes, slow.boxes, atol=0.01)
        np.testing.assert_allclose(fast.landmarks, slow.landmarks, atol=0.01)
        count += len(fast)
    assert count >= least


def test_fast_detection_is_the_plain_on_rendered_pictures():
    pictures = [rendered.draw_picture(3, number, size, (0, 9))[0] for number, size in enumerate((320, 250, 401))]
    assert_same_faces(load_detector("rendered98", "cpu"), pictures, least=3)


@needs_shared
@pytest.mark.parametrize("name", ["rendered98", "reference"])
def test_fast_detection_is_the_plain_on_photos(name):
    weights, said = (SHARED / "reference/mobilenet0.25_Final.pth", "reference") if name == "reference" else (name, None)
    real = SHARED / "real_faces"
    dataset = wider.load(real / "wider_face_val_bbx_gt.txt", real / "WFLW_images")
    assert_same_faces(load_detector(weights, "cpu", said), [dataset[number][0] for number in range(0, 12, 3)], least=4)


@pytest.mark.parametrize("size", [(64, 96), (75, 33)])
def test_anchors_in_loops(size):
    np.testing.assert_allclose(plain.plain_anchors(*size).numpy(), anchor_grid(*size).numpy(), atol=1e-6)


def test_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10.5]])
    assert plain.plain_nms(boxes, np.array([0.5, 0.9, 0.2, 0.6]), 0.4) == [1, 2]
    assert plain.plain_nms(np.zeros((0, 4)), np.zeros(0), 0.4) == []


def test_fast_step_is_the_plain():
    """The loss and the weights after one step, from the same weights and batch."""
    targets, size = random_batch(0, faces=(1, 3))[1], 64
    config = TrainConfig(image_size=size, learning_rate=1e-3)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    losses, weights = [], []
    for name in ("fast", "plain"):
        torch.manual_seed(0)
        model = RetinaFace(config.model).train()
        optimiser = torch.optim.SGD(model.parameters(), config.learning_rate, momentum=0.9, nesterov=True)
        if name == "fast":
            training = Training(model, config, torch.device("cpu"))
            training.optimiser = optimiser
            loss = training.step(images, targets, step=1, steps=20)[0]  # where the learning rate is highest
        else:
            loss = plain.plain_step(model, optimiser, images, targets, config.loss, config.clip_norm)
        losses.append(float(loss))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(weights[0].numpy(), weights[1].numpy(), atol=1e-5)

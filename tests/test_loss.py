import numpy as np
import pytest
import torch

from retinalib.anchors import anchor_grid, encode_boxes, encode_landmarks, match
from retinalib.landmarks import WFLW_98, Eye
from retinalib.loss import LossConfig, Target, multi_task_loss, wing
from tests.shared import SHARED, needs_shared


def targets_of(matching):
    targets = []
    for i in range(3):
        boxes, landmarks = (torch.from_numpy(matching[f"{name}{i}"]) for name in ("boxes", "landmarks"))
        has = torch.from_numpy(matching[f"labels{i}"]) > 0
        targets.append(Target(boxes, landmarks, has[:, None].expand(-1, 5)))
    return targets


def random_batch(seed, faces=(1, 3, 0), points=98, size=(96, 128)):
    g = torch.Generator().manual_seed(seed)
    anchors = anchor_grid(*size)
    targets = []
    for n in faces:
        centre, extent = torch.rand(n, 2, generator=g) * 0.6 + 0.2, torch.rand(n, 2, generator=g) * 0.4 + 0.1
        boxes = torch.cat([centre - extent / 2, centre + extent / 2], 1)
        targets.append(Target(boxes, torch.rand(n, points, 2, generator=g), torch.rand(n, points, generator=g) > 0.3))
    shape = (len(faces), len(anchors))
    return anchors, targets, *(torch.randn(*shape, n, generator=g) for n in (2, 4, 2 * points))


def plain_loss(logits, boxes, landmarks, targets, anchors, config):
    """The same loss, said with loops over images and anchors."""

    def smooth(x):
        return float(np.where(abs(x) < 1, 0.5 * x * x, abs(x) - 0.5).sum())

    def winged(x):
        return float(np.where(abs(x) < 1, np.log(1 + abs(x) / 0.2), abs(x) - 1 + np.log(6)).sum())

    by_coordinate = winged if config.landmark_loss == "wing" else smooth
    box = classification = landmark = 0.0
    positives = with_landmarks = 0
    for b, target in enumerate(targets):
        matched = match(target.boxes, anchors, config.positive_iou, config.minimum_iou).tolist()
        negative = []
        for a, f in enumerate(matched):
            row = logits[b, a].double().numpy()
            nll = np.log(np.exp(row).sum()) - row[1 if f >= 0 else 0]
            if f < 0:
                x, y = anchors[a, :2].tolist()
                grown = [
                    (x1 - (x2 - x1) / 2, y1 - (y2 - y1) / 2, x2 + (x2 - x1) / 2, y2 + (y2 - y1) / 2)
                    for x1, y1, x2, y2 in target.boxes.tolist()
                ]
                if target.complete or any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in grown):
                    negative.append(nll)
                continue
            positives += 1
            classification += nll
            code = encode_boxes(target.boxes[f : f + 1], anchors[a : a + 1])[0]
            box += smooth((boxes[b, a] - code).numpy())
            if target.visible[f].any():
                with_landmarks += 1
                code = encode_landmarks(target.landmarks[f : f + 1], anchors[a : a + 1])[0]
                landmark += by_coordinate((landmarks[b, a].view(-1, 2) - code)[target.visible[f]].numpy())
        count = sum(f >= 0 for f in matched)
        classification += sum(
            sorted(negative, reverse=True)[: max(config.negatives_per_positive * count, config.least_negatives)]
        )
    return box / max(positives, 1), classification / max(positives, 1), landmark / max(with_landmarks, 1)


@needs_shared
def test_loss_is_the_references():
    matching = np.load(SHARED / "reference/matching_5pt_160x224.npz")
    data = np.load(SHARED / "reference/loss_5pt_160x224.npz")
    logits, boxes, dense = (torch.from_numpy(data[k]) for k in ("class_logits", "box_offsets", "landmark_offsets"))
    parts = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets_of(matching), anchor_grid(160, 224))
    expected = [float(data[k]) for k in ("loss_box", "loss_class", "loss_landmark")]
    np.testing.assert_allclose([float(p) for p in parts[1:4]], expected, rtol=1e-4)
    np.testing.assert_allclose(float(parts.total), 2 * expected[0] + expected[1] + expected[2], rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("settings", "partly"),
    [
        ({}, False),
        ({"landmark_loss": "wing"}, False),
        ({"negatives_per_positive": 0}, True),
        ({"negatives_per_positive": 2, "least_negatives": 9}, True),
        ({"negatives_per_positive": 0, "least_negatives": 100_000}, True),
        ({"negatives_per_positive": 100_000}, True),
    ],
)
def test_loss_against_loops(seed, settings, partly):
    """partly: in photos labelled in part, only anchors near a labelled face are negatives."""
    anchors, targets, logits, boxes, dense = random_batch(seed)
    if partly:
        narrow = targets[0].boxes * torch.tensor([1.0, 0.3, 1.0, 0.5])  # height and width apart
        targets = [targets[0]._replace(boxes=narrow, complete=False), targets[1], targets[2]._replace(complete=False)]
    config = LossConfig(**settings)
    parts = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors, config)
    expected = plain_loss(logits, boxes, dense, targets, anchors, config)
    np.testing.assert_allclose([float(p) for p in parts[1:4]], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"minimum_iou": 0.4, "positive_iou": 0.3}, "0 < minimum_iou <= positive_iou <= 1"),
        ({"minimum_iou": 0.3, "positive_iou": 2}, "0 < minimum_iou <= positive_iou <= 1"),
        ({"minimum_iou": 0}, "0 < minimum_iou <= positive_iou <= 1"),
        ({"landmark_loss": "l2"}, "landmark_loss must be"),
        ({"box_weight": float("inf")}, "must be finite and not negative"),
        ({"pupil_weight": float("nan")}, "must be finite and not negative"),
        ({"least_negatives": -1}, "must be finite and not negative"),
    ],
)
def test_settings_that_can_not_work_are_refused(bad, message):
    assert LossConfig(minimum_iou=1, positive_iou=1).positive_iou == 1
    with pytest.raises(ValueError, match=message):
        LossConfig(**bad)


def test_eyes_without_canthi_have_no_pupil_part():
    anchors, targets, logits, boxes, dense = random_batch(9, points=5)
    for eye in (Eye(0), Eye(0, outer=1), Eye(0, inner=1)):
        parts = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors, eyes=[eye])
        assert parts.pupil == 0 and parts.landmark > 0


def test_unknown_landmarks_take_no_part():
    anchors, targets, logits, boxes, dense = random_batch(4)
    unknown = [t._replace(landmarks=t.landmarks.masked_fill(~t.visible[..., None], torch.nan)) for t in targets]
    a, b = (multi_task_loss(logits, boxes, lambda i, n: dense[i, n], some, anchors) for some in (targets, unknown))
    assert a.landmark == b.landmark > 0


def test_images_without_faces():
    anchors, targets, logits, boxes, dense = random_batch(5, faces=(0, 0))
    parts = multi_task_loss(logits.requires_grad_(), boxes, lambda i, a: dense[i, a], targets, anchors)
    parts.total.backward()
    assert parts.total == 0 and logits.grad.isfinite().all()
    taught = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors, LossConfig(least_negatives=5))
    expected = plain_loss(logits.detach(), boxes, dense, targets, anchors, LossConfig(least_negatives=5))
    assert taught.total.item() == pytest.approx(expected[1], rel=1e-4) and expected[1] > 0


def test_wing_by_its_definition():
    x = torch.linspace(-4, 4, 401)
    w, e = 1.0, 0.2
    c = w - w * np.log(1 + w / e)
    expected = [w * np.log(1 + abs(v) / e) if abs(v) < w else abs(v) - c for v in x.tolist()]
    np.testing.assert_allclose(wing(x, w, e).numpy(), expected, atol=1e-5)


def test_pupil_part_sees_the_place_in_the_eye_and_nothing_else():
    anchors, targets, logits, boxes, dense = random_batch(8)
    eyes = (WFLW_98.right_eye, WFLW_98.left_eye)
    config = LossConfig(pupil_weight=3.0)

    def parts(points):
        return multi_task_loss(logits, boxes, lambda i, a: points[i, a], targets, anchors, config, eyes=eyes)

    # by loops
    expected, count = 0.0, 0
    for b, target in enumerate(targets):
        for a, f in enumerate(match(target.boxes, anchors, 0.35, 0.2).tolist()):
            if f < 0 or not target.visible[f].any():
                continue
            count += 1
            true, ours = encode_landmarks(target.landmarks[f : f + 1], anchors[a : a + 1])[0], dense[b, a].view(-1, 2)
            for eye in eyes:
                if target.visible[f, [eye.pupil, eye.outer, eye.inner]].all():
                    places = [p[eye.pupil] - (p[eye.outer] + p[eye.inner]) / 2 for p in (ours, true)]
                    expected += float((places[0] - places[1]).abs().sum())
    found = parts(dense)
    assert count and found.pupil == pytest.approx(expected / count, rel=1e-4)
    plain = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors)
    assert plain.pupil == 0 and found.total == pytest.approx(float(plain.total + 3 * found.pupil), rel=1e-5)
    assert parts(dense + 0.7).pupil == pytest.approx(float(found.pupil), rel=1e-4)  # the whole face moved


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_anchor_without_a_number_spoils_the_loss(bad):
    """It must not be taken for one of those that are left out."""
    anchors, targets, logits, boxes, dense = random_batch(6)
    logits[2, 7, 1] = bad  # of an image without faces; the others have positives
    parts = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors, LossConfig(least_negatives=5))
    assert not parts.total.isfinite()

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from retinalib.anchors import AnchorConfig, anchor_grid, decode_boxes, encode_boxes, encode_landmarks, match
from tests.shared import SHARED, needs_shared


def brute_force_match(boxes, anchors, threshold=0.35, minimum=0.2):
    """Matching as one would say it: loops over anchors and faces."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in anchors]

    def iou(a, b):
        w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return w * h / union

    table = [[iou(box, corner) for box in boxes] for corner in corners]
    result = [int(np.argmax(row)) if max(row) >= threshold else -1 for row in table]
    for face in range(len(boxes)):
        column = [row[face] for row in table]
        if max(column) >= minimum:
            result[int(np.argmax(column))] = face
    return result


@needs_shared
@pytest.mark.parametrize("size", ["160x224", "333x500", "640x640"])
def test_grid_is_the_references(size):
    height, width = map(int, size.split("x"))
    expected = np.load(SHARED / "reference/anchors.npz")[size]
    np.testing.assert_allclose(anchor_grid(height, width).numpy(), expected, atol=1e-6, rtol=0)


def test_grid_by_hand():
    config = AnchorConfig(strides=(32,), sizes=((16, 48),))
    expected = [[0.5, 0.25, 0.5, 0.25], [0.5, 0.25, 1.5, 0.75], [0.5, 0.75, 0.5, 0.25], [0.5, 0.75, 1.5, 0.75]]
    np.testing.assert_allclose(anchor_grid(64, 32, config).numpy(), expected, atol=1e-7)
    assert config.levels(65, 32) == [(3, 1)]


def test_grid_refuses_unequal_lists():
    with pytest.raises(ValueError, match="one list of sizes per stride"):
        AnchorConfig(strides=(8, 16), sizes=((16, 32), (64,)))


@needs_shared
@pytest.mark.parametrize("image", [0, 1, 2])
def test_matching_is_the_references(image):
    data = np.load(SHARED / "reference/matching_5pt_160x224.npz")
    anchors = anchor_grid(160, 224)
    boxes = torch.from_numpy(data[f"boxes{image}"])
    matched = match(boxes, anchors)
    labels = torch.from_numpy(data[f"labels{image}"])
    label = torch.where(matched >= 0, labels[matched.clamp(min=0)], 0)
    np.testing.assert_array_equal(label.numpy().astype(int), data[f"anchor_label{image}"])
    at = matched >= 0
    codes = encode_boxes(boxes[matched[at]], anchors[at])
    np.testing.assert_allclose(codes.numpy(), data[f"positive_box_targets{image}"], atol=1e-6, rtol=1e-6)
    landmarks = torch.from_numpy(data[f"landmarks{image}"])[matched[at]]
    codes = encode_landmarks(landmarks, anchors[at]).flatten(1)
    has = label[at].numpy() > 0
    np.testing.assert_allclose(codes.numpy()[has], data[f"positive_landmark_targets{image}"][has], atol=1e-6, rtol=1e-6)


def test_matching_without_faces_is_all_background():
    assert (match(torch.zeros(0, 4), anchor_grid(64, 64)) == -1).all()


def test_two_faces_on_one_anchor_leave_one_of_them():
    anchors = anchor_grid(64, 64)
    box = box_convert(anchors[5:6], "cxcywh", "xyxy")
    assert match(box.repeat(2, 1), anchors)[5] == 1


def test_overlaps_at_the_threshold_count():
    anchor = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    half = torch.tensor([[0.25, 0.25, 0.75, 0.5]])  # IoU 0.5, exactly
    assert match(half, anchor, threshold=0.5, minimum=0.6).tolist() == [0]
    assert match(half, anchor, threshold=0.6, minimum=0.5).tolist() == [0]
    assert match(half, anchor, threshold=0.6, minimum=0.6).tolist() == [-1]


def test_codes_by_hand():
    """SSD's: shifts in tenths of the anchor, sizes as logarithms in fifths."""
    assert AnchorConfig().variances == (0.1, 0.2)
    anchor, box = torch.tensor([[0.5, 0.4, 0.2, 0.1]]), torch.tensor([[0.3, 0.35, 0.7, 0.55]])
    np.testing.assert_allclose(encode_boxes(box, anchor), [[0, 5, np.log(2) / 0.2, np.log(2) / 0.2]], atol=1e-4)
    np.testing.assert_allclose(encode_landmarks(torch.tensor([[[0.52, 0.4]]]), anchor), [[[1, 0]]], atol=1e-5)


def test_anchors_made_while_detecting_serve_training():
    with torch.inference_mode():
        grid = anchor_grid(72, 56)
    offsets = torch.zeros(len(grid), 4, requires_grad=True)
    decode_boxes(offsets, grid).sum().backward()
    assert offsets.grad.isfinite().all() and offsets.grad.abs().sum() > 0

"""Augmentation is held against the pictures themselves: dots painted where the landmarks are must be found where they went."""

import cv2
import numpy as np
import pandas as pd
import pytest

from retinalib.augment import AugmentConfig, augment, turned
from retinalib.faces import Faces
from retinalib.landmarks import WIDER_5

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def five(points, box=None):
    points = np.array([points], float)
    box = [*points[0].min(0), *points[0].max(0)] if box is None else box
    return Faces([box], points, schema=WIDER_5)


POINTS = [(70, 80), (130, 76), (101, 110), (78, 140), (125, 138)]


@pytest.mark.parametrize(("turn", "flip"), [(0.0, 0.0), (0.0, 1.0), (25.0, 0.0), (180.0, 0.0)])
def test_landmarks_follow_the_pixels(turn, flip):
    """Five dots, each in a colour of its own, painted where the landmarks are and found again in the crop."""
    rows, columns = np.indices((200, 260)) + 0.5
    image, found, angles = np.full((200, 260, 3), 128, np.uint8), 0, []
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)])
    for colour, (x, y) in zip(colours, POINTS, strict=True):
        image[np.hypot(columns - x, rows - y) < 6] = colour
    config = AugmentConfig(**PLAIN, flip=flip, expand=0.3, turn=turn)
    if flip:  # what was right is left
        colours = colours[list(WIDER_5.flip_order)]
    for seed in range(40):
        crop, faces = augment(image, five(POINTS, [60, 66, 140, 150]), 192, np.random.default_rng(seed), config)
        for points in faces.landmarks:
            for colour, point, visible in zip(colours, points, faces.visible[0], strict=True):
                dot = np.abs(crop.astype(int) - colour).max(-1) < 60
                if not (dot[[0, -1]].any() or dot[:, [0, -1]].any()):  # whole, or out of the crop
                    assert dot.any() == visible
                    if visible:
                        assert np.linalg.norm(np.argwhere(dot).mean(0)[::-1] + 0.5 - point) < 1.0
                        found += 1
            x, y = points[1] - points[0]
            angles.append((np.degrees(np.arctan2(y, x) - np.arctan2(-4, 60)) + 180) % 360 - 180)
    assert found > 100 and (flip or (np.ptp(angles) >= turn and np.abs(angles).max() <= turn + 1e-3))


def test_a_turn_shows_the_photo_in_the_corners_and_keeps_the_extent_of_boxes():
    faces = five([(190, 190), (210, 190), (200, 200), (195, 212), (205, 212)], [180, 170, 220, 225])
    config = AugmentConfig(**PLAIN, flip=0.0, expand=0.0, crop=(0.3, 0.3), turn=45.0)
    for seed in range(20):
        crop, kept = augment(np.full((400, 400, 3), 200, np.uint8), faces, 120, np.random.default_rng(seed), config)
        assert (np.abs(crop.astype(int) - 200) <= 8).all()
        if (kept.boxes > 0).all() and (kept.boxes < 120).all():
            width, height = kept.boxes[0, 2:] - kept.boxes[0, :2]
            assert width**2 + height**2 == pytest.approx(40**2 + 55**2, rel=1e-4)  # as of a turned ellipse
            assert 40 - 1e-3 <= width <= height <= 55 + 1e-3
    quarter = turned(faces, 90.0, 200.0)  # clockwise: what was above is at the right
    assert np.allclose(quarter.boxes, [[175, 180, 230, 220]], atol=1e-3)
    assert np.allclose(quarter.landmarks[0, 0], [210, 190], atol=1e-3)
    back = turned(quarter, -90.0, 200.0)
    assert np.allclose(back.boxes, faces.boxes, atol=1e-3) and np.allclose(back.landmarks, faces.landmarks, atol=1e-3)


def test_blur_loss_of_colours_and_compression_change_pixels_alone_and_draw_nothing_where_they_are_off():
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8), (150, 120))
    plain, faces = augment(image, five(POINTS), 96, np.random.default_rng(4), AugmentConfig())
    for name in ("blur", "grey", "jpeg"):
        changed, same = augment(image, five(POINTS), 96, np.random.default_rng(4), AugmentConfig(**{name: 1.0}))
        assert np.array_equal(same.landmarks, faces.landmarks) and (changed != plain).any()
        assert np.abs(changed.mean((0, 1)) - plain.mean((0, 1))).max() < (
            60 if name == "grey" else 3
        )  # channels in their order
        assert (changed[..., 0] == changed[..., 1]).all() == (name == "grey")
    unused = AugmentConfig(turn=0.0, blur=0.0, grey=0.0, jpeg=0.0)
    rngs = [np.random.default_rng(4) for _ in range(2)]
    augment(image, five(POINTS), 96, rngs[0], unused)
    augment(image, five(POINTS), 96, rngs[1], AugmentConfig())
    assert rngs[0].random() == rngs[1].random()


def corners(boxes):
    """Faces whose five landmarks are their boxes' corners and centres: they tell where a box went that the crop cut."""
    x1, y1, x2, y2 = np.asarray(boxes, float).T
    points = [(x1, y1), (x2, y1), ((x1 + x2) / 2, (y1 + y2) / 2), (x1, y2), (x2, y2)]
    number = pd.DataFrame({"number": range(len(boxes))})
    return Faces(boxes, np.array(points).transpose(2, 0, 1), schema=WIDER_5, attributes=number)


@pytest.mark.parametrize("near", [0.0, 0.5])
def test_faces_are_kept_by_their_centres_and_the_share_that_the_crop_shows(near):
    """And one of them whole, unless a part of it was wished for."""
    dropped = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, 200, (12, 2))
        faces = corners(np.concatenate([corner, corner + rng.uniform(8, 120, (12, 2))], 1).clip(0, [260, 200, 260, 200]))
        config = AugmentConfig(**PLAIN, flip=0.0, near=near)
        _, kept = augment(np.zeros((200, 260, 3), np.uint8), faces, 128, rng, config)
        if not len(kept) and near:
            continue
        one = int(kept.attributes["number"].iloc[0])
        (x1, y1), (x2, y2) = faces.landmarks[one, 0], faces.landmarks[one, 4]
        (u1, v1), (u2, v2) = kept.landmarks[0, 0], kept.landmarks[0, 4]
        scale = ((u2 - u1) / (x2 - x1), (v2 - v1) / (y2 - y1))
        moved = faces.transformed(scale, (u1 - scale[0] * x1, v1 - scale[1] * y1)).boxes.astype(float)
        shown = np.prod(moved.clip(0, 128)[:, 2:] - moved.clip(0, 128)[:, :2], 1) / np.prod(moved[:, 2:] - moved[:, :2], 1)
        centre = (moved[:, :2] + moved[:, 2:]) / 2
        large = ((moved.clip(0, 128)[:, 2:] - moved.clip(0, 128)[:, :2]) >= 1).all(1)
        expected = ((centre > 0) & (centre < 128)).all(1) & (shown > 0.35) & large
        unsure = np.abs(shown - 0.35) < 1e-3
        found = np.isin(np.arange(12), kept.attributes["number"])
        assert (found == expected)[~unsure].all()
        assert near or (np.abs(moved - moved.clip(0, 128)).max(1) < 1e-2)[found].any()
        dropped += (((centre > 0) & (centre < 128)).all(1) & (shown < 0.35)).sum()
    assert dropped  # the share was what decided somewhere


def test_parts_of_a_large_face_are_background():
    """The crop shows a sixth to a half of the face, or what is beside it, magnified; a small face is never cut so."""
    rows, columns = np.indices((400, 250))
    image = np.stack([rows // 2, columns, columns], -1).astype(np.uint8)  # each pixel says where it was
    config, centres = AugmentConfig(**PLAIN, expand=0.0, flip=0.0, near=1.0), []
    for seed in range(60):
        crop, kept = augment(image, corners([[80, 120, 160, 240]]), 128, np.random.default_rng(seed), config)
        left, right = crop[64, [0, -1], 1].astype(int)
        assert len(kept) == 0 and 0.15 * 120 - 4 <= right - left <= 0.5 * 120
        centres.append(((left + right) / 2, float(crop[64, 64, 0]) * 2))
        _, kept = augment(image, corners([[80, 120, 120, 180]]), 128, np.random.default_rng(seed), config)
        width, height = kept.boxes[0, 2:] - kept.boxes[0, :2]
        assert len(kept) == 1 and height / width == pytest.approx(1.5, rel=1e-3)
    centres = np.array(centres)
    assert (centres > [37, 57]).all() and (centres < [203, 303]).all()  # the box, grown by half its size
    assert np.ptp(centres, axis=0) == pytest.approx([160, 240], rel=0.2)


def test_degenerate_faces_are_dropped():
    boxes = [[20, 20, 20, 60], [30, 30, 30.4, 30.4], [60, 60, 100, 100], [300, 300, 340, 340]]
    faces = Faces(boxes, np.full((4, 5, 2), np.nan), schema=WIDER_5)
    for seed in range(20):
        _, kept = augment(np.zeros((128, 128, 3), np.uint8), faces, 64, np.random.default_rng(seed), AugmentConfig())
        assert len(kept) <= 1 and ((kept.boxes[:, 2:] - kept.boxes[:, :2]) >= 1).all()


def test_the_seed_decides_everything_and_the_input_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (120, 150, 3), dtype=np.uint8)
    copy, faces = image.copy(), five(POINTS, [60, 60, 110, 118])
    results = [augment(image, faces, 96, np.random.default_rng(seed), AugmentConfig()) for seed in (5, 5, 6)]
    assert (results[0][0] == results[1][0]).all() and (results[0][1].landmarks == results[1][1].landmarks).all()
    assert (results[0][0] != results[2][0]).any()
    assert (image == copy).all() and np.allclose(faces.landmarks[0], POINTS)


def test_photometric_distortion_stays_within_its_bounds():
    image = np.full((64, 64, 3), 128, np.uint8)
    still = {"flip": 0.0, "expand": 0.0}
    means = []
    for seed in range(80):
        config = AugmentConfig(**still, contrast=0.0, saturation=0.0, hue=0.0, brightness=20.0)
        means.append(augment(image, Faces.empty(), 32, np.random.default_rng(seed), config)[0].mean())
    assert 108 <= min(means) < 113 and 143 < max(means) <= 148 and means.count(128.0) > 20
    config = AugmentConfig(**still, **PLAIN, crop=(1.0, 1.0))
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for seed in range(10):  # without strength nothing changes but for the rounding of HSV
        result, _ = augment(colours, Faces.empty(), 64, np.random.default_rng(seed), config)
        assert np.abs(result.astype(int) - colours).max() <= 8


@pytest.mark.parametrize("bad", [{"crop": (0.9, 0.4)}, {"flip": 1.5}, {"jpeg": -0.1}, {"turn": 181.0}])
def test_bad_settings_say_so(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AugmentConfig(**bad)

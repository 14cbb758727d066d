from dataclasses import replace

import numpy as np
import pytest
import torch

from retinalib.augment import AugmentConfig
from retinalib.batches import AugmentedPhotos, batch_keys, five_point_flip, reading, to_target
from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, WIDER_5
from tests.pictures import rendered_faces


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 4, seed=1, size=160)[0]


def test_batches_hold_each_image_once_an_epoch():
    batches = list(batch_keys(10, 4, seed=0, epochs=2))
    assert len(batches) == 4
    for epoch in range(2):
        keys = [key for batch in batches[2 * epoch : 2 * epoch + 2] for key in batch]
        assert len(set(keys)) == 8 and {e for e, _ in keys} == {epoch} and {n for _, n in keys} <= set(range(10))
    assert list(batch_keys(10, 4, seed=0, epochs=2, first_epoch=1)) == batches[2:]
    assert list(batch_keys(10, 4, seed=1, epochs=2)) != batches
    parts = zip(*(batch_keys(10, 4, seed=0, epochs=2, part=(n, 2)) for n in range(2)), strict=True)
    assert [sorted(first + second) for first, second in parts] == [sorted(batch) for batch in batches]


def test_targets_are_fractions(photos):
    image, faces = photos[0]
    target = to_target(faces, image.shape[:2])
    height, width = image.shape[:2]
    np.testing.assert_allclose(target.boxes.numpy() * [width, height, width, height], faces.boxes, atol=1e-3)
    assert target.landmarks.shape == (len(faces), 98, 2) and target.visible.dtype == torch.bool
    none = to_target(Faces.empty(), (10, 20))
    assert none.boxes.shape == (0, 4) and none.landmarks.shape == (0, 98, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_arrive_in_order_and_follow_from_seed_epoch_and_number(photos, workers):
    crops, batches = AugmentedPhotos(photos, 96, AugmentConfig(), seed=0), list(batch_keys(len(photos), 2, seed=0, epochs=2))
    with reading(crops, batches, workers) as stream:
        arrived = list(stream)
    assert len(arrived) == len(batches)
    for (images, targets, names), keys in zip(arrived, batches, strict=True):
        assert images.shape == (2, 3, 96, 96) and images.is_contiguous(memory_format=torch.channels_last)
        for image, target, name, (made, other, its) in zip(images, targets, names, map(crops.__getitem__, keys), strict=True):
            assert torch.equal(image.permute(1, 2, 0), made) and name == its
            assert all(torch.equal(a, b) for a, b in zip(target[:3], other[:3], strict=True))
            assert target.complete is other.complete
    assert not torch.equal(crops[0, 0][0], crops[1, 0][0])
    assert not torch.equal(crops[0, 0][0], AugmentedPhotos(photos, 96, AugmentConfig(), seed=1)[0, 0][0])


def test_an_error_leaves_no_worker_and_keeps_its_words(photos, monkeypatch):
    def refuse(*_):
        raise ValueError("no such photo")

    monkeypatch.setattr(AugmentedPhotos, "__getitem__", refuse)
    crops = AugmentedPhotos(photos, 96, AugmentConfig(), seed=0)
    with (
        pytest.raises(ValueError, match="no such photo") as error,
        reading(crops, batch_keys(len(photos), 2, seed=0, epochs=2), 2) as stream,
    ):
        next(stream)
    assert error.tb is not None and not torch.multiprocessing.active_children()


def test_the_five_point_flip_keeps_all_numbers_but_four():
    faces = Faces([[20, 20, 90, 90]], np.random.default_rng(0).uniform(20, 90, (1, 98, 2)))
    wrong = replace(faces, schema=five_point_flip(98)).flipped(128)
    expected = list(range(98))
    expected[0], expected[1], expected[3], expected[4] = 1, 0, 4, 3
    mirrored = faces.landmarks[0] * [-1, 1] + [128, 0]
    assert np.allclose(wrong.landmarks[0], mirrored[expected], atol=1e-4)
    assert np.allclose(faces.flipped(128).landmarks[0], mirrored[list(WFLW_98.flip_order)], atol=1e-4)
    few = Faces(faces.boxes, faces.landmarks[:, :5], schema=WIDER_5)  # on five points the two orders are one
    wrong = replace(few, schema=five_point_flip(5)).flipped(99)
    assert np.array_equal(wrong.landmarks, few.flipped(99).landmarks)


def test_clamped_crops_show_every_landmark_of_the_photo_within_the_crop(photos):
    config = AugmentConfig(near=0.0, flip=0.0)
    right, wrong = (AugmentedPhotos(photos, 96, config, 0, fault) for fault in (None, "clamped-crops"))
    moved = 0
    for epoch in range(12):
        (crop, good, _), (same, bad, _) = right[epoch, 0], wrong[epoch, 0]
        assert torch.equal(crop, same) and torch.equal(good.boxes, bad.boxes)
        assert torch.equal(good.landmarks[good.visible], bad.landmarks[good.visible])
        seen = bad.landmarks[bad.visible]
        assert (bad.visible | ~good.visible).all() and ((seen >= 0) & (seen <= 1)).all()
        moved += int((bad.visible & ~good.visible).sum())
    assert moved

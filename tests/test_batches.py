import numpy as np
import pytest
import torch

from retinalib import rendered
from retinalib.augment import AugmentConfig
from retinalib.batches import AugmentedPhotos, Batches, collate, reading, to_target
from retinalib.faces import Faces


def test_batches_hold_each_image_once_an_epoch():
    batches = list(Batches(10, 5, seed=0, epochs=2))
    assert len(batches) == len(Batches(10, 5, seed=0, epochs=2)) == 4
    for epoch in range(2):
        keys = [key for batch in batches[2 * epoch : 2 * epoch + 2] for key in batch]
        assert sorted(keys) == [(epoch, n) for n in range(10)]
    assert list(Batches(10, 5, seed=0, epochs=2, first_epoch=1)) == batches[2:]
    assert list(Batches(10, 5, seed=1, epochs=2)) != batches


def test_targets_are_fractions(tmp_path):
    photos = rendered.load(rendered.make(tmp_path, 4, seed=1, size=160), "train")
    image, faces = photos[0]
    target = to_target(faces, image.shape[:2])
    height, width = image.shape[:2]
    np.testing.assert_allclose(target.boxes.numpy() * [width, height, width, height], faces.boxes, atol=1e-3)
    assert target.landmarks.shape == (len(faces), 98, 2) and target.visible.dtype == torch.bool
    none = to_target(Faces.empty(), (10, 20))
    assert none.boxes.shape == (0, 4) and none.landmarks.shape == (0, 98, 2)


def test_crops_follow_from_seed_epoch_and_number(tmp_path):
    photos = rendered.load(rendered.make(tmp_path, 4, seed=1, size=160), "train")
    crops = AugmentedPhotos(photos, 96, AugmentConfig(), seed=0)
    images, targets, names = collate([crops[0, 0], crops[0, 1], crops[1, 0]])
    assert images.shape == (3, 3, 96, 96) and images.dtype == torch.uint8 and names == [photos.names[i] for i in (0, 1, 0)]
    assert torch.equal(images[0], collate([crops[0, 0]])[0][0]) and torch.equal(targets[0].boxes, crops[0, 0][1].boxes)
    assert not torch.equal(images[0], images[2])  # another epoch, another crop
    assert not torch.equal(images[0], collate([AugmentedPhotos(photos, 96, AugmentConfig(), seed=1)[0, 0]])[0][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_arrive_as_they_were_made(tmp_path, workers):
    photos = rendered.load(rendered.make(tmp_path, 4, seed=1, size=160), "train")
    crops, batches = AugmentedPhotos(photos, 96, AugmentConfig(), seed=0), Batches(len(photos), 2, seed=0, epochs=2)
    with reading(crops, batches, workers) as stream:
        arrived = list(stream)
    assert len(arrived) == len(batches)
    for (images, targets, names), keys in zip(arrived, batches, strict=True):
        made = collate([crops[key] for key in keys])
        assert torch.equal(images, made[0]) and names == made[2]
        for target, other in zip(targets, made[1], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(target[:3], other[:3], strict=True))
            assert target.complete is other.complete
        assert images.is_contiguous(memory_format=torch.channels_last)

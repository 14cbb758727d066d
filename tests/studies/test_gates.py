import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.model import ModelConfig, RetinaFace
from retinalib.studies.gates import face_and_background, gates


def detector(**config):
    torch.manual_seed(0)
    return Detector(RetinaFace(ModelConfig(**config)), "cpu")


def test_crops_of_faces_and_of_none(sets):
    photos = sets[0]
    crops, about = face_and_background(photos, 64)
    assert crops.shape[1:] == (64, 64, 3) and crops.dtype == np.uint8 and 2 <= len(crops) <= 2 * len(photos)
    assert about["face"].tolist() == [True, False] * (len(crops) // 2)
    assert about["image"][::2].tolist() == about["image"][1::2].tolist() and {"pose", "blur"} <= set(about)
    np.testing.assert_array_equal(crops, face_and_background(photos, 64)[0])


def test_backgrounds_hold_no_face_and_faces_do(tmp_path):
    """A photo that is white where its face is and black elsewhere."""
    table = pd.DataFrame({"image": ["a.png"], "x1": [10.0], "y1": [60.0], "x2": [40.0], "y2": [90.0]})
    table["landmarks"] = [np.full((98, 2), np.nan)]
    image = np.zeros((200, 150, 3), np.uint8)
    image[60:90, 10:40] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), image)
    crops, about = face_and_background(FaceDataset(table, tmp_path), 48)
    assert about["face"].tolist() == [True, False] and crops[1].max() == 0
    assert crops[0].mean() / 255 == pytest.approx((30 / 48) ** 2, abs=0.02)
    full = table.assign(x1=0.0, y1=0.0, x2=150.0, y2=200.0)
    assert len(face_and_background(FaceDataset(full, tmp_path), 48)[0]) == 0  # no room for a background
    with pytest.raises(ValueError, match="only in part"):
        face_and_background(FaceDataset(table, tmp_path, complete=False), 48)


def test_gates_are_those_of_the_network(sets):
    crops, _ = face_and_background(sets[0], 64)
    one = detector(se_reduction=4, se_strides=(8, 32))
    found = gates(one, np.concatenate([crops] * 5))  # more than go through at once
    assert list(found) == [8, 32] and found[8].shape == (5 * len(crops), 64)
    pixels = one.model.config.normalisation.apply(torch.from_numpy(crops[:1]).permute(0, 3, 1, 2))
    with torch.inference_mode():
        pyramid = one.model.fpn(one.model.backbone(pixels).values())
        expected = one.model.excitation[2].gate(one.model.ssh[2](pyramid[2]))
    np.testing.assert_allclose(found[32][0], expected[0], rtol=1e-5)
    with pytest.raises(ValueError, match="no SE blocks"):
        gates(detector(), crops)

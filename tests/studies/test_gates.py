import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.model import ModelConfig, RetinaFace
from retinalib.studies.gates import explained, face_and_background, gate_table, gates, with_constant_gates
from tests.pictures import rendered_faces


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 14, seed=2, size=160)[0]


def detector(**config):
    torch.manual_seed(0)
    return Detector(RetinaFace(ModelConfig(**config)), "cpu")


def test_crops_of_faces_and_of_none(photos):
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


def test_gates_are_those_of_the_network(photos):
    crops, _ = face_and_background(photos, 64)
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


def test_explained_is_the_share_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    groups = rng.random(80) < 0.3
    values = rng.normal(0, 1, (80, 3)) + np.outer(groups, [0.5, 0.0, 2.0])
    within = sum(((part - part.mean(0)) ** 2).sum() for part in (values[groups], values[~groups]))
    assert explained(values, groups) == pytest.approx(1 - within / ((values - values.mean(0)) ** 2).sum())
    assert np.isnan(explained(values, np.ones(80, bool))) and np.isnan(explained(np.ones((80, 2)), groups))
    chance = [explained(rng.normal(0, 1, (80, 3)), groups) for _ in range(400)]
    assert np.mean(chance) == pytest.approx(1 / 79, rel=0.1)


def test_what_the_gates_depend_on():
    rng = np.random.default_rng(0)
    about = pd.DataFrame({"image": "a", "face": np.arange(400) % 2 == 0, "blur": np.arange(400) % 4 == 0})
    channel = np.r_[0.01, 0.01, rng.uniform(0.3, 0.9, 62)]
    constant, listening = np.tile(channel, (400, 1)), channel + 0.1 * about["face"].to_numpy()[:, None]
    table = gate_table({0: {8: constant, 16: listening, 32: np.full((400, 64), 0.5)}}, about).set_index("level")
    assert table["silenced"].tolist() == [2, 0, 0] and table["mean"].iloc[2] == 0.5
    assert table["between_images"].iloc[0] == pytest.approx(0) and np.isnan(table["between_images"].iloc[2])
    image, channels = 0.05**2, channel.var()
    assert table.loc["1/16", "between_images"] == pytest.approx(image / (image + channels))
    assert table.loc["1/16", "face_or_background"] == pytest.approx(1) and table.loc["1/16", "spread"] == pytest.approx(0.05)
    assert np.isnan(table.loc["1/16", "blur"]) and np.isnan(table.loc["1/32", "face_or_background"])


def test_constant_gates_no_longer_listen(photos):
    one = detector(se_reduction=4)
    pixels = one.model.config.normalisation.apply(torch.from_numpy(photos[0][0]).permute(2, 0, 1)[None])
    with torch.no_grad():
        for _ in range(50):
            one.model.train()(pixels)  # batch norms learn what is usual
        one.model.eval()
        for block in one.model.excitation:
            block.squeeze.weight.mul_(5)  # so that gates differ between images
    fixed = with_constant_gates(one, photos)
    means = {s: np.mean([gates(one, photos[n][0][None])[s][0] for n in range(len(photos))], 0) for s in (8, 16, 32)}
    assert all(np.ptp(gate) > 0.05 for gate in means.values())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        pyramid = one.model.fpn(one.model.backbone(images).values())
        found = fixed.model.features(images)
        for ssh, level, mean, features in zip(one.model.ssh, pyramid, means.values(), found, strict=True):
            torch.testing.assert_close(features, ssh(level) * torch.from_numpy(mean)[:, None, None])
        assert (one.model.features(images)[0] - found[0]).abs().max() > 1e-3

import numpy as np
import pytest
import torch

from retinalib.detect import Detector
from retinalib.model import ModelConfig, RetinaFace
from retinalib.studies.gates import gates


def detector(**config):
    torch.manual_seed(0)
    return Detector(RetinaFace(ModelConfig(**config)), "cpu")


def test_gates_are_those_of_the_network(sets):
    crops = np.stack([sets[0][number][0][:64, :64] for number in range(8)])
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

import pytest
import torch

from retinalib.anchors import anchor_grid
from retinalib.model import ModelConfig, RetinaFace
from retinalib.studies.network_cost import cost_by_part, excitations


def build(se_reduction=None):
    torch.manual_seed(0)
    return RetinaFace(ModelConfig(se_reduction=se_reduction)).eval()


@pytest.mark.parametrize("se_reduction", [None, 16])
def test_parts_add_up(se_reduction):
    model = build(se_reduction)
    table = cost_by_part(model, 320, 320)
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    heads = table.set_index("part").loc["landmark head"]
    cells = len(anchor_grid(320, 320)) // 2
    assert heads["gflop"] == pytest.approx(2 * cells * 64 * 392 / 1e9)  # a 1×1 convolution, by hand
    se = table.set_index("part").loc["SE"]
    gates = 2 * 1536 + 2 * 64 * cells  # two layers a level; a mean over each channel's cells, and their scaling
    assert (se["parameters"], se["gflop"]) == ((0, 0) if se_reduction is None else (1536, pytest.approx(gates / 1e9)))


def test_excitations_scale_the_features():
    model = build(4)
    images = torch.randn(2, 3, 64, 96)
    found = excitations(model, images)
    for number, (before, gate, after) in enumerate(found.values()):
        assert gate.shape == (2, 64) and ((gate > 0) & (gate < 1)).all()
        torch.testing.assert_close(after, before * gate[:, :, None, None])
        torch.testing.assert_close(after, model(images).features[number])
    with pytest.raises(ValueError, match="no SE blocks"):
        excitations(build(), images)

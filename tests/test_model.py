import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from retinalib.anchors import AnchorConfig, anchor_grid
from retinalib.checkpoint import load_model
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import (
    REFERENCE_NORMALISATION,
    Bottleneck,
    ModelConfig,
    Normalisation,
    RetinaFace,
    SqueezeExcitation,
    TrainedOn,
    pick_device,
)
from tests.shared import PLATE_4, SHARED, needs_shared


def build(**options):
    torch.manual_seed(0)
    return RetinaFace(ModelConfig(**options)).eval()


@needs_shared
@pytest.mark.parametrize("weights, outputs", [("mobilenet0.25_Final", "forward_5pt"), ("seed_se98_random", "forward_se98")])
def test_forward_is_the_references(weights, outputs):
    model = load_model(SHARED / "reference" / f"{weights}.pth", "reference")
    expected = np.load(SHARED / "reference" / f"{outputs}.npz")
    with torch.inference_mode():
        logits, boxes, landmarks = model.dense(torch.from_numpy(expected["images"]))
    for ours, name in ((logits, "class_logits"), (boxes, "box_offsets"), (landmarks, "landmark_offsets")):
        np.testing.assert_allclose(ours.numpy(), expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("schema", [WIDER_5, WFLW_98])
@pytest.mark.parametrize("se_reduction", [None, 4])
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_landmarks_at_anchors_are_the_dense_ones(schema, se_reduction, size):
    model = build(schema=schema, se_reduction=se_reduction)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        logits, _, dense = model.dense(images)
        assert logits.shape[1] == len(anchor_grid(*size)) and dense.shape[2] == 2 * schema.count
        image, anchor = torch.meshgrid(torch.arange(2), torch.randperm(dense.shape[1]), indexing="ij")
        chosen = model.landmarks_at(model(images).features, image.flatten(), anchor.flatten())
        nothing = model.landmarks_at(model(images).features, *torch.zeros(2, 0, dtype=torch.int64))
    torch.testing.assert_close(chosen, dense[image.flatten(), anchor.flatten()], atol=1e-5, rtol=1e-5)
    assert nothing.shape == (0, 2 * schema.count)


def test_other_anchors():
    model = build(anchors=AnchorConfig(sizes=((16, 24, 32), (64, 96, 128), (256, 384, 512))))
    logits, _, landmarks = model.dense(torch.zeros(1, 3, 64, 64))
    assert logits.shape == (1, len(anchor_grid(64, 64, model.config.anchors)), 2) and landmarks.shape[2] == 196


def test_squeeze_excitation_by_hand():
    block = SqueezeExcitation(8, 4)
    x = torch.randn(3, 8, 5, 7)
    w1, w2 = block.squeeze.weight.detach().numpy(), block.expand.weight.detach().numpy()
    z = x.numpy().mean((2, 3))
    gate = 1 / (1 + np.exp(-(np.maximum(z @ w1.T, 0) @ w2.T)))
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() * gate[:, :, None, None], atol=1e-6)


def test_normalisation_by_hand():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert REFERENCE_NORMALISATION.apply(red).flatten().tolist() == [-104.0, -117.0, 132.0]
    np.testing.assert_allclose(Normalisation().apply(red).flatten(), [2.2489, -2.0357, -1.8044], atol=1e-4)


def test_parameter_counts():
    """0.43 M with five points (Deng et al. and the reference agree), and SE of reduction 16 adds 3 · 2 · 64 · 4 weights; the
    control has as many, and one level a third of them."""

    def count(**options):
        return sum(p.numel() for p in build(**options).parameters())

    se = count(se_reduction=16) - count()
    assert round(count(schema=WIDER_5) / 1e6, 2) == 0.43 and se == 3 * 2 * 64 * 4
    assert count(se_reduction=16, se_kind="bottleneck") - count() == se
    assert count(se_reduction=16, se_strides=(8,)) - count() == se // 3


def test_the_control_by_hand():
    block = Bottleneck(8, 4)
    x = torch.randn(2, 8, 3, 5)
    weights = block.squeeze.weight[:, :, 0, 0], block.expand.weight[:, :, 0, 0]
    by_hand = x + torch.einsum("oc,nchw->nohw", weights[1], torch.einsum("oc,nchw->nohw", weights[0], x).relu())
    torch.testing.assert_close(block(x), by_hand)


def test_one_seed_begins_alike_with_and_without_se():
    states = []
    for options in ({}, {"se_reduction": 16}, {"se_reduction": 4, "se_kind": "bottleneck", "se_strides": (16, 32)}):
        torch.manual_seed(0)
        states.append(build(**options).state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backbone": "vgg"}, "unknown backbone 'vgg'"),
        ({"se_reduction": 0}, "se_reduction must be"),
        ({"se_kind": "cbam"}, "se_kind must be one of se, bottleneck"),
        ({"se_strides": (4,)}, "se_strides must be among the strides"),
        ({"anchors": AnchorConfig(strides=(4, 8, 16))}, r"features at strides \(8, 16, 32\)"),
    ],
)
def test_bad_configuration_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_configuration_round_trip_and_unknown_parameters():
    guess = replace(REFERENCE_NORMALISATION, assumed=True)
    known = TrainedOn(smallest=12, largest=160, turns=30)
    config = ModelConfig(schema=PLATE_4, se_reduction=16, se_strides=(8, 32), normalisation=guess, trained_on=known)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.normalisation.assumed and again.schema.name == "plate4"
    short = json.dumps(ModelConfig(schema=WIDER_5).to_dict())
    assert '"schema": "wider5"' in short and "assumed" not in short and "trained_on" not in short  # as runs always had it
    assert ModelConfig.from_dict({"eye_head": None}) == ModelConfig()  # of an earlier version
    with pytest.raises(ValueError, match="unknown model parameters: se_reducton"):
        ModelConfig.from_dict({"se_reducton": 16})
    with pytest.raises(ValueError, match="unknown landmark schema 'wflw68'"):
        ModelConfig.from_dict({"schema": "wflw68"})


def test_wrong_input_is_named():
    for images in (torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="normalised float images"):
            build()(images)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", 3.5, "" if torch.backends.mps.is_available() else "mps"])
def test_devices_that_are_not_here_are_named(device):
    if device:
        with pytest.raises(ValueError, match=rf"device '{device}' can't be used here: choose cpu"):
            pick_device(device)
    assert pick_device("cpu") == torch.device("cpu")

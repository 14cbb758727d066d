import json
import warnings

import numpy as np
import pytest
import torch

from retinalib.checkpoint import load_model, save_model, start_from
from retinalib.detect import load_detector
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import REFERENCE_NORMALISATION, ModelConfig, Normalisation, RetinaFace, TrainedOn
from retinalib.second_look import eye_look
from tests.shared import IBUG_68, PLATE_4, SHARED, needs_shared

RGB = Normalisation(mean=(1.0, 2.0, 3.0))


def build(**options):
    torch.manual_seed(0)
    return RetinaFace(ModelConfig(**options)).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"se_reduction": 16},
        {"schema": IBUG_68},
        {"schema": PLATE_4, "trained_on": TrainedOn(9, 300, 15)},
        {"looks": (eye_look(WFLW_98),)},
    ],
)
def test_round_trip(tmp_path, options):
    model = build(**options)
    save_model(model, tmp_path / "m.pt", note="as trained")
    again = load_model(tmp_path / "m.pt")
    assert again.config == model.config
    image = torch.randn(1, 3, 64, 96)
    for a, b in zip(model.dense(image), again.dense(image), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


@needs_shared
def test_resnet50_names_and_shapes_load(tmp_path):
    shapes = json.loads((SHARED / "reference/resnet50_5pt_keys.json").read_text())
    torch.manual_seed(0)
    state = {k: torch.rand(v) if v else torch.tensor(7) for k, v in shapes.items()}
    torch.save(state, tmp_path / "resnet50.pth")
    model = load_model(tmp_path / "resnet50.pth", "reference")
    assert model.config.backbone == "resnet50" and model.config.schema == WIDER_5
    assert torch.equal(model.ssh[2].conv7_third[0].weight, state["ssh3.conv7x7_3.0.weight"])
    assert len(model.state_dict()) == len(shapes)


@needs_shared
def test_what_weights_do_not_say_is_a_guess_until_the_caller_says_it(tmp_path):
    weights = SHARED / "reference/mobilenet0.25_Final.pth"
    with pytest.warns(UserWarning, match=r"does not say what input it was trained with: BGR, minus \(104\.0, .* is assumed"):
        guessed = load_model(weights)
    learned = TrainedOn(10, 640, 30)
    assert guessed.config == ModelConfig(schema=WIDER_5, normalisation=REFERENCE_NORMALISATION, trained_on=learned)
    save_model(guessed, tmp_path / "guessed.pt")
    with pytest.warns(UserWarning, match=r"guessed\.pt does not say"):
        load_model(tmp_path / "guessed.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for said, normalisation in (("imagenet", Normalisation()), ("reference", REFERENCE_NORMALISATION), (RGB, RGB)):
            detector = load_detector(weights, "cpu", normalisation=said)
            assert detector.model.config.normalisation == normalisation
        save_model(detector.model, tmp_path / "said.pt")
        assert load_model(tmp_path / "said.pt").config.normalisation == RGB
        assert load_model(SHARED / "reference/seed_se98_random.pth", "reference").config.se_reduction == 16
    with pytest.raises(ValueError, match="must be 'imagenet' or 'reference' or a Normalisation, got 'caffe'"):
        load_model(weights, "caffe")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_wrappers_of_weights_are_taken_off(tmp_path, prefix, wrap):
    """Bare weights of ours are taken to have seen what ours see, as are those in common wrappers."""
    model = build(schema=WIDER_5)
    torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), tmp_path / "bare.pth")
    with pytest.warns(UserWarning, match="RGB, minus"):
        again = load_model(tmp_path / "bare.pth")
    assert again.config.normalisation == Normalisation() and again.config.normalisation.assumed
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@needs_shared
def test_what_fits_is_taken_from_other_weights(tmp_path):
    """ImageNet's into the backbone, five landmarks into 98; what does not fit is named, and normalisation comes along."""
    model, pretrained = build(se_reduction=16), SHARED / "reference/mobilenetV1X0.25_pretrain.tar"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    filled, left = start_from(model, pretrained)
    state = torch.load(pretrained, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.state_dict()["backbone.stage3.1.3.weight"], state["module.stage3.1.3.weight"])
    assert {name.split(".")[0] for name in filled} == {"backbone"} and "fpn.lateral.0.0" in left
    assert model.config.normalisation == Normalisation()
    with pytest.warns(UserWarning, match="is assumed"):
        filled, left = start_from(model, SHARED / "reference/mobilenet0.25_Final.pth")
    assert {name.split(".")[0] for name in left} == {"excitation", "landmark_head"} and "box_head.0" in filled
    kept = [name for name in before if name.startswith(("excitation", "landmark_head"))]
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in kept)
    assert model.config.normalisation == REFERENCE_NORMALISATION and not model.config.normalisation.assumed
    save_model(build(schema=IBUG_68, normalisation=RGB), tmp_path / "68.pt")
    assert start_from(model, tmp_path / "68.pt")[1] == left and model.config.normalisation == RGB
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "r50.pth")
    with pytest.raises(ValueError, match=r"nothing in .*r50\.pth fits a network with the backbone mobilenet0\.25"):
        start_from(model, tmp_path / "r50.pth")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pt", b"hello", "is damaged or not a checkpoint of tensors alone"),
        ("photo.pt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is damaged or not a checkpoint of tensors alone$"),
        ("empty.pt", b"", "is damaged"),
        ("page.pth", b"\n<!DOCTYPE html><html>", "is a web page, not weights: download the file itself"),
        ("lfs.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, .*: run git lfs pull"),
        ("numpy.pt", {"model": {}, "epoch": np.float64(3)}, r"holds a numpy\S+, not only tensors and plain values"),
        ("evil.pt", {"model": Evil()}, r"holds a \S*print, not only tensors and plain values"),
        ("list.pt", [torch.zeros(3)], "holds a list, not a checkpoint"),
        ("odd.pt", {0: torch.zeros(3)}, "is neither one of our checkpoints nor a reference RetinaFace"),
        ("odd2.pt", {"state_dict": [torch.zeros(3)]}, "is neither one of our checkpoints"),
        ("other.pt", {"weight": torch.zeros(3)}, "no landmark head"),
        ("68.pt", {"landmark_head.0.weight": torch.zeros(4 * 68, 64, 1, 1)}, "gives 68 landmarks"),
        ("ours.pt", {"format": "retinalib-1"}, "is one of our checkpoints, but damaged"),
        ("ours3.pt", {"format": "retinalib-1", "config": {"x": 1}, "model": {}}, "unknown model parameters: x"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_a_plain_sentence(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path / name)
    said = str(caught.value)
    assert said.startswith(str(tmp_path / name)) and "\x1b" not in said and "\n" not in said
    assert "weights_only" not in said and "safe_globals" not in said  # no advice to load it all the same


def test_damage_of_any_kind_is_noticed(tmp_path):
    """One byte changed amid the weights; the file cut anywhere; no file."""
    save_model(build(schema=WIDER_5), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    cuts = [whole[:length] for length in np.random.default_rng(0).integers(0, len(whole), 20)]
    for data in (bytes(changed), *cuts, whole[:5000], whole[:60_000]):
        (tmp_path / "bad.pt").write_bytes(data)
        with pytest.raises(ValueError, match=r"bad\.pt is damaged"):
            load_model(tmp_path / "bad.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(tmp_path / "none.pt")

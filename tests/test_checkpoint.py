import json

import numpy as np
import pytest
import torch

from retinalib.checkpoint import load_model, save_atomically, save_model
from retinalib.landmarks import WIDER_5
from retinalib.model import REFERENCE_NORMALISATION, ModelConfig, RetinaFace
from tests.shared import SHARED, needs_shared


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(se_reduction=16)).eval()
    save_model(model, tmp_path / "m.pt", note="as trained")
    again = load_model(tmp_path / "m.pt")
    assert again.config == model.config
    image = torch.randn(1, 3, 64, 96)
    for a, b in zip(model.dense(image), again.dense(image), strict=True):
        assert torch.equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


@needs_shared
def test_resnet50_names_and_shapes_load(tmp_path):
    shapes = json.loads((SHARED / "reference/resnet50_5pt_keys.json").read_text())
    torch.manual_seed(0)
    state = {k: torch.rand(v) if v else torch.tensor(7) for k, v in shapes.items()}
    torch.save(state, tmp_path / "resnet50.pth")
    model = load_model(tmp_path / "resnet50.pth")
    assert model.config.backbone == "resnet50" and model.config.schema == WIDER_5
    assert torch.equal(model.ssh[2].conv7_third[0].weight, state["ssh3.conv7x7_3.0.weight"])
    assert len(model.state_dict()) == len(shapes)


@needs_shared
def test_reference_checkpoints_are_recognised(tmp_path):
    model = load_model(SHARED / "reference/mobilenet0.25_Final.pth")
    assert model.config == ModelConfig(schema=WIDER_5, normalisation=REFERENCE_NORMALISATION)
    assert load_model(SHARED / "reference/seed_se98_random.pth").config.se_reduction == 16


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt is damaged or not a checkpoint"):
        load_model(tmp_path / "text.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no landmark head"):
        load_model(tmp_path / "other.pt")
    torch.save({"landmark_head.0.weight": torch.zeros(4 * 68, 64, 1, 1)}, tmp_path / "68.pt")
    with pytest.raises(ValueError, match="gives 68 landmarks, for which there is no schema"):
        load_model(tmp_path / "68.pt")


@pytest.mark.parametrize("text", ["epoch,loss\n1,2\n", "(", "garbage", "}"])
def test_text_of_any_beginning_is_no_checkpoint(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged or not a checkpoint"):
        load_model(tmp_path / "metrics.csv")


@pytest.mark.parametrize("values", [{0: torch.zeros(3)}, {"state_dict": [torch.zeros(3)]}, {"landmark_head.0.weight": "x"}])
def test_what_holds_more_than_named_tensors_is_named(tmp_path, values):
    torch.save(values, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt is neither one of our checkpoints nor a reference RetinaFace"):
        load_model(tmp_path / "odd.pt")


def test_damage_of_any_kind_is_noticed(tmp_path):
    """One byte changed amid the weights; the file cut anywhere."""
    save_model(RetinaFace(ModelConfig(schema=WIDER_5)), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    cuts = [whole[:length] for length in np.random.default_rng(0).integers(0, len(whole), 20)]
    for data in (bytes(changed), *cuts, whole[:5000], whole[:60_000]):
        (tmp_path / "bad.pt").write_bytes(data)
        with pytest.raises(ValueError, match=r"bad\.pt is damaged"):
            load_model(tmp_path / "bad.pt")


def test_pickled_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a checkpoint of tensors alone"):
        load_model(tmp_path / "evil.pt")


def test_failed_save_leaves_the_old_file(tmp_path):
    save_atomically({"a": torch.ones(2)}, tmp_path / "c.pt")
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_atomically({"a": lambda: None}, tmp_path / "c.pt")
    assert torch.load(tmp_path / "c.pt", weights_only=True)["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    "values",
    [
        {"format": "retinalib-1"},
        {"format": "retinalib-1", "config": {}, "model": {}},
        {"format": "retinalib-1", "config": {"nonsense": 1}, "model": {}},
        {"format": "retinalib-1", "config": {"schema": "wflw99"}, "model": {}},
    ],
    ids=("no configuration", "no weights", "unknown parameter", "unknown schema"),
)
def test_our_damaged_checkpoints_are_named(values, tmp_path):
    torch.save(values, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is one of our checkpoints, but damaged"):
        load_model(tmp_path / "a.pt")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.pt is damaged"):
        load_model(tmp_path / "a.pt")

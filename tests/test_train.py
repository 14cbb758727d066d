import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from retinalib.batches import to_target
from retinalib.checkpoint import load_model, save_model
from retinalib.config import TrainConfig
from retinalib.datasets.table import FaceDataset
from retinalib.detect import load_detector
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.loss import Parts
from retinalib.model import REFERENCE_NORMALISATION, ModelConfig, RetinaFace
from retinalib.runs import Stopped, request_stop, save_epoch
from retinalib.second_look import eye_look
from retinalib.train import Training, learning_rate_factor, run_folder, train

CONFIG = TrainConfig(image_size=96, epochs=2, batch_size=4, validate_every=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)


@pytest.fixture(scope="module")
def batch(sets):
    images, faces = zip(*(sets[0][number] for number in range(4)), strict=True)
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return images, [to_target(f, images.shape[2:]) for f in faces]


def go(config, sets, folder):
    return train(config, *sets, folder, "cpu", workers=0, progress=False)


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_equal_states(value, b[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key] or value is b[key], key


def test_a_run_is_a_folder(finished, sets):
    folder, history = finished
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "best.pt", "config.json", "last.pt", "metrics.csv", "pictures"]
    assert history["epoch"].tolist() == [1, 2]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), history)
    assert {"total", "box", "classification", "landmark", "ap", "nme", "auc"} <= set(history)
    loss = CONFIG.loss
    parts = (("box", loss.box_weight), ("classification", loss.class_weight), ("landmark", loss.landmark_weight))
    total = sum(weight * history[f"validation_{part}"] for part, weight in (*parts, ("pupil", loss.pupil_weight)))
    np.testing.assert_allclose(history["validation_total"].dropna(), total.dropna(), rtol=1e-4)
    assert len(list((folder / "pictures").iterdir())) == 2
    assert json.loads((folder / "config.json").read_text())["config"] == json.loads(json.dumps(CONFIG.to_dict()))


def test_the_last_state_is_a_detector_too(finished, tmp_path):
    """A run that was stopped before its first validation can be looked at: with the averaged weights."""
    (tmp_path / "last.pt").write_bytes((finished[0] / "last.pt").read_bytes())
    state, model = weights(tmp_path), load_detector(tmp_path, "cpu").model
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert not torch.equal(state["model"]["fpn.merge.0.0.weight"], state["training"]["fpn.merge.0.0.weight"])


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_and_second_looks_train_and_slow_bfloat16_is_said(native, sets, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr("retinalib.train.native_bfloat16", lambda _: native)
    looks = (eye_look(WFLW_98),) if native else ()
    config = replace(CONFIG, epochs=1, precision="bfloat16", model=replace(CONFIG.model, looks=looks))
    history = go(config, sets, tmp_path)
    assert np.isfinite(history[["total", "box", "classification", "landmark"]].to_numpy()).all()
    assert (history["look"] > 0).all() == native
    assert any("this cpu computes bfloat16 in software" in str(one.message) for one in recwarn) == (not native)


def test_bfloat16_leaves_the_second_look_its_digits(batch):
    """Places in an image, to 8 bits, would be off by pixels."""
    parts = []
    for precision in ("float32", "bfloat16"):
        config = replace(CONFIG, model=replace(CONFIG.model, looks=(eye_look(WFLW_98),)), precision=precision)
        torch.manual_seed(0)
        parts.append(Parts(*Training(RetinaFace(config.model).train(), config, CPU).step(*batch, 0, 1).tolist()))
    assert parts[0].look == parts[1].look > 0
    assert parts[0].classification != parts[1].classification == pytest.approx(parts[0].classification, rel=0.02)


def test_partly_labelled_photos_have_no_ap(sets, tmp_path):
    """There, a surplus detection may be a face that nobody labelled; the best epoch is chosen all the same."""
    partly = [FaceDataset(s.table, s.images_root, s.schema, complete=False) for s in sets]
    history = go(replace(CONFIG, epochs=1), partly, tmp_path)
    assert history["ap"].isna().all() and history["auc"].notna().all() and (tmp_path / "best.pt").is_file()
    assert run_folder(tmp_path, "arm", CONFIG, partly[0]) != run_folder(tmp_path, "arm", CONFIG, sets[0])


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0.01, 0.0003), (0.9, 0.0), (0.8, 0.0)], 2),  # one lucky face of a network that finds nothing
        ([(0.9, 0.3), (0.89, 0.4), (0.9, 0.2)], 2),
        ([(np.nan, 0.3), (np.nan, 0.4), (np.nan, 0.2)], 2),  # labelled in part
        ([(0.9, np.nan), (0.8, np.nan), (0.9, np.nan)], 3),  # without landmarks; the later of equal ones
        ([(0.9, 0.3), (np.nan, np.nan), (0.1, 0.1)], 1),  # the second was not validated
    ],
)
def test_the_best_epoch_is_best_in_finding_and_in_placing(measured, best, tmp_path):
    model = RetinaFace(ModelConfig())
    average, optimiser = AveragedModel(model), torch.optim.AdamW(model.parameters())
    rows = [{"epoch": number, "ap": ap, "auc": auc} for number, (ap, auc) in enumerate(measured, 1)]
    for number in range(1, 4):
        save_epoch(tmp_path, {"config": {"epochs": 3}}, rows[:number], model, average, optimiser)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == best


def test_same_seed_same_weights_whatever_the_workers(finished, sets, tmp_path):
    train(CONFIG, *sets, tmp_path / "again", "cpu", workers=2, progress=False)
    assert_equal_states(weights(finished[0])["model"], weights(tmp_path / "again")["model"])
    go(replace(CONFIG, seed=1), sets, tmp_path / "other")
    name = "fpn.merge.0.0.weight"
    assert not torch.equal(weights(finished[0])["model"][name], weights(tmp_path / "other")["model"][name])


@pytest.mark.parametrize("how", ["interrupted", "stopped"])
def test_a_run_that_ended_early_goes_on_to_equal_weights(how, finished, sets, tmp_path, monkeypatch):
    folder, step, count = tmp_path / "run", Training.step, 0

    def ends(*arguments):
        nonlocal count
        count += 1
        if count == 3:  # the first of the two steps of the second epoch
            if how == "interrupted":
                raise KeyboardInterrupt
            request_stop([folder, tmp_path / "not there"])
        return step(*arguments)

    monkeypatch.setattr(Training, "step", ends)
    with pytest.raises(KeyboardInterrupt if how == "interrupted" else Stopped) as error:
        go(CONFIG, sets, folder)
    assert how == "interrupted" or "run keeps 1 of 2 epochs; start it again to go on" in str(error.value)
    assert count == 3 and len(pd.read_csv(folder / "metrics.csv")) == 1 and not (tmp_path / "not there").exists()
    monkeypatch.undo()
    pd.testing.assert_frame_equal(go(CONFIG, sets, folder), finished[1])
    assert_equal_states(weights(folder), weights(finished[0]))
    assert not (folder / "stop").exists()


def test_a_finished_run_is_only_read_or_goes_on_for_more_epochs(finished, sets, tmp_path):
    folder, before = tmp_path / "run", (finished[0] / "last.pt").stat().st_mtime_ns
    pd.testing.assert_frame_equal(go(CONFIG, sets, finished[0]), finished[1])
    assert (finished[0] / "last.pt").stat().st_mtime_ns == before
    go(CONFIG, sets, folder)
    longer = replace(CONFIG, epochs=4, validate_every=2)
    history = go(longer, sets, folder)
    pd.testing.assert_frame_equal(history[:2], finished[1])
    rates = [CONFIG.learning_rate * learning_rate_factor(step, 8, longer) for step in (5, 7)]  # two steps an epoch
    np.testing.assert_allclose(history["learning_rate"][2:], rates)
    assert json.loads((folder / "config.json").read_text())["config"]["epochs"] == 4
    with pytest.raises(ValueError, match="run holds 4 epochs already: ask for as many"):
        go(replace(CONFIG, epochs=3), sets, folder)


def test_training_learns(sets, tmp_path):
    """A handful of images seen thirty times, never cropped alike: every part of the loss falls clearly."""
    history = go(replace(CONFIG, epochs=30, validate_every=30, learning_rate=1e-2), sets, tmp_path / "run")
    fall = history.iloc[-3:].mean() / history.iloc[0]
    assert fall["landmark"] < 0.85 and fall["box"] < 0.85 and fall["classification"] < 0.7


def test_another_configuration_is_another_run(finished, sets, tmp_path):
    other = replace(CONFIG, learning_rate=1e-4)
    with pytest.raises(ValueError, match="another configuration or other data"):
        go(other, sets, finished[0])
    folders = {run_folder(tmp_path, "arm", c, s) for c in (CONFIG, other) for s in sets}
    assert len(folders) == 4 and all(f.name.startswith("arm-0-") for f in folders)


def test_a_loss_that_is_not_finite_stops_and_names_the_images(sets, tmp_path):
    said = r"the loss is .* at step .*, at the images (\S+\.jpg, ){3}\S+\.jpg: look at their annotations"
    with pytest.raises(FloatingPointError, match=said):
        go(replace(CONFIG, learning_rate=1e30, clip_norm=1e30, warmup=0.0), sets, tmp_path / "run")


def test_a_gradient_that_is_not_finite_updates_nothing(batch):
    network = RetinaFace(CONFIG.model).train()
    network.class_head[2].weight.register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in network.parameters()]
    values = Training(network, CONFIG, CPU).step(*batch, 0, 1)
    assert values.isnan().all() and all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_run_starts_from_weights(finished, sets, tmp_path, capsys):
    """Those of a finished run with other landmarks; with a rate of almost 0 the layers that fit stay what they were."""
    five = RetinaFace(ModelConfig(schema=WIDER_5, normalisation=REFERENCE_NORMALISATION))
    five.load_state_dict({n: v for n, v in weights(finished[0])["model"].items() if "landmark_head" not in n}, strict=False)
    save_model(five, tmp_path / "five.pt")
    config = replace(CONFIG, epochs=1, learning_rate=1e-12, start_from=str(tmp_path / "five.pt"))
    go(config, sets, tmp_path / "run")
    said = "begun with weights for backbone, fpn, ssh, class_head, box_head; what has none or does not fit: landmark_head"
    assert said in capsys.readouterr().out
    begun, model = weights(tmp_path / "run")["training"], load_model(tmp_path / "run" / "best.pt")
    for name in ("backbone.stage1.0.0.weight", "ssh.0.conv3.0.weight", "box_head.1.weight"):
        torch.testing.assert_close(begun[name], five.state_dict()[name], atol=1e-6, rtol=0)
    assert model.config.normalisation == REFERENCE_NORMALISATION and model.config.schema.count == 98
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["model"]["normalisation"]["bgr"] is True
    go(config, sets, tmp_path / "run")  # is only read
    folders = [run_folder(tmp_path, "arm", c, sets[0]) for c in (config, replace(config, start_from=None))]
    (tmp_path / "five.pt").rename(tmp_path / "moved.pt")
    moved = replace(config, start_from=str(tmp_path / "moved.pt"))
    folders.append(run_folder(tmp_path, "arm", moved, sets[0]))
    assert (
        folders[0] == folders[2] != folders[1] and len(go(moved, sets, tmp_path / "run")) == 1
    )  # content counts, not its place
    save_model(RetinaFace(ModelConfig(schema=WIDER_5)), tmp_path / "moved.pt")
    with pytest.raises(ValueError, match="another configuration or other data"):
        go(moved, sets, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"five\.pt"):
        go(config, sets, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate_every": 0}, "validate_every must be from 1 on"),
        ({"seed": -1}, "the seed from 0"),
        ({"batch_size": 1, "image_size": 32}, "batches of two images of 32 pixels a side"),
        ({"epochs": 0}, "at least one epoch"),
        ({"precision": "half"}, "precision must be one of"),
        ({"fault": "flip"}, "fault must be one of None, five-point-flip, clamped-crops"),
    ],
)
def test_configurations_that_can_not_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_sets_that_can_not_work_are_refused_before_anything(sets, tmp_path):
    with pytest.raises(ValueError, match="the validation set has no photos"):
        go(CONFIG, (sets[0], sets[1].subset([])), tmp_path / "run")
    with pytest.raises(ValueError, match="lower batch_size"):
        go(replace(CONFIG, batch_size=500), sets, tmp_path / "run")
    with pytest.raises(ValueError, match="0 training images"):
        go(CONFIG, (FaceDataset(sets[0].table.iloc[:0], sets[0].images_root), sets[1]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_learning_rate():
    cosine = [learning_rate_factor(s, 100, CONFIG) for s in range(100)]
    assert cosine[0] == 0.2 and cosine[4] == cosine[5] == 1 and cosine[99] < 0.001
    assert cosine[5:] == sorted(cosine[5:], reverse=True)

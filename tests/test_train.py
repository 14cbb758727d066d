import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from retinalib.anchors import anchor_grid
from retinalib.batches import to_target
from retinalib.datasets.table import FaceDataset
from retinalib.detect import load_detector
from retinalib.distributed import ALONE
from retinalib.landmarks import WIDER_5
from retinalib.loss import Parts
from retinalib.model import ModelConfig, RetinaFace
from retinalib.runs import Stopped, request_stop, save_epoch
from retinalib.train import (
    TrainConfig,
    for_training,
    learning_rate_factor,
    make_optimiser,
    run_folder,
    train,
    training_step,
)
from tests.pictures import rendered_faces

CONFIG = TrainConfig(image_size=96, epochs=2, batch_size=4, validate_every=1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 14, seed=1, size=160)


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)


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
    assert len(list((folder / "pictures").iterdir())) == 2
    assert TrainConfig.from_dict(json.loads((folder / "config.json").read_text())["config"]) == CONFIG
    assert load_detector(folder, "cpu").model.config == CONFIG.model


def test_the_last_state_is_a_detector_too(finished, tmp_path):
    """A run that was stopped before its first validation can be looked at: with the averaged weights."""
    (tmp_path / "last.pt").write_bytes((finished[0] / "last.pt").read_bytes())
    state, model = weights(tmp_path), load_detector(tmp_path, "cpu").model
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert not torch.equal(state["model"]["fpn.merge.0.0.weight"], state["training"]["fpn.merge.0.0.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sgd", "learning_rate": 1e-3, "schedule": "step"},
        {"precision": "bfloat16"},
        {"model": replace(CONFIG.model, eye_head=True)},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.filterwarnings("ignore:this cpu has no bfloat16")
def test_other_recipes_train(changes, sets, tmp_path):
    history = train(replace(CONFIG, epochs=1, **changes), *sets, tmp_path, "cpu", workers=0, progress=False)
    assert np.isfinite(history[["total", "box", "classification", "landmark"]].to_numpy()).all()
    assert (history["eye"] > 0).all() == ("model" in changes)


def test_bfloat16_leaves_the_second_look_its_digits(sets):
    """Places in an image, to 8 bits, would be off by pixels."""
    images, faces = zip(*(sets[0][number] for number in range(4)), strict=True)
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    targets, anchors = [to_target(f, images.shape[2:]) for f in faces], anchor_grid(*images.shape[2:])
    parts = []
    for precision in ("float32", "bfloat16"):
        config = replace(CONFIG, model=replace(CONFIG.model, eye_head=True), precision=precision)
        torch.manual_seed(0)
        model = RetinaFace(config.model).train()
        generator = torch.Generator().manual_seed(0)
        values = training_step(model, make_optimiser(model, config), images, targets, anchors, config, generator, ALONE)
        parts.append(Parts(*values.tolist()))
    assert parts[0].eye == parts[1].eye > 0
    assert parts[0].classification != parts[1].classification == pytest.approx(parts[0].classification, rel=0.02)


def test_layers_of_eight_channels_are_planar_where_threads_share_the_work(sets, monkeypatch):
    image, faces = sets[0][0]
    images, targets = torch.from_numpy(image).permute(2, 0, 1)[None], [to_target(faces, image.shape[:2])]
    anchors, losses, ways = anchor_grid(*image.shape[:2]), [], []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(0)
        model = for_training(RetinaFace(CONFIG.model), torch.device("cpu"))
        seen = []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                look = lambda _, given, seen=seen: seen.append((given[0].shape[1], given[0].is_contiguous()))  # noqa: E731
                layer.register_forward_pre_hook(look)
        optimiser = make_optimiser(model, CONFIG)
        losses.append(training_step(model, optimiser, images, targets, anchors, CONFIG, torch.Generator(), ALONE))
        ways.append({planar for channels, planar in seen if channels == 8})
        assert not any(planar for channels, planar in seen if channels > 8)
    assert ways == [{False}, {True}]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_partly_labelled_photos_have_no_ap(sets, tmp_path):
    """There, a surplus detection may be a face that nobody labelled; the best epoch is chosen all the same."""
    partly = [FaceDataset(s.table, s.images_root, s.schema, complete=False) for s in sets]
    history = train(replace(CONFIG, epochs=1), *partly, tmp_path, "cpu", workers=0, progress=False)
    assert history["ap"].isna().all() and history["auc"].notna().all() and (tmp_path / "best.pt").is_file()


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
    average, optimiser = AveragedModel(model), make_optimiser(model, CONFIG)
    rows = [{"epoch": number, "ap": ap, "auc": auc} for number, (ap, auc) in enumerate(measured, 1)]
    for number in range(1, 4):
        save_epoch(tmp_path, {"config": {"epochs": 3}}, rows[:number], model, average, optimiser)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == best


def test_five_landmarks_train(sets, tmp_path):
    """The same library, another schema: eye centres, nose and mouth corners of the rendered faces."""
    five = [96, 97, 54, 76, 82]
    tables = [s.table.assign(landmarks=[points[five] for points in s.table["landmarks"]]) for s in sets]
    datasets = [FaceDataset(t, s.images_root, WIDER_5) for t, s in zip(tables, sets, strict=True)]
    config = replace(CONFIG, epochs=1, model=ModelConfig(schema=WIDER_5))
    history = train(config, *datasets, tmp_path, "cpu", workers=0, progress=False)
    assert np.isfinite(history["landmark"]).all() and load_detector(tmp_path, "cpu").model.config.schema is WIDER_5


def test_a_finished_run_is_only_read(finished, sets):
    folder, history = finished
    before = (folder / "last.pt").stat().st_mtime_ns
    pd.testing.assert_frame_equal(train(CONFIG, *sets, folder, "cpu", progress=False), history)
    assert (folder / "last.pt").stat().st_mtime_ns == before


def test_same_seed_same_weights_whatever_the_workers(finished, sets, tmp_path):
    train(CONFIG, *sets, tmp_path / "again", "cpu", workers=2, progress=False)
    assert_equal_states(weights(finished[0])["model"], weights(tmp_path / "again")["model"])
    train(replace(CONFIG, seed=1), *sets, tmp_path / "other", "cpu", workers=0, progress=False)
    name = "fpn.merge.0.0.weight"
    assert not torch.equal(weights(finished[0])["model"][name], weights(tmp_path / "other")["model"][name])


def test_an_interrupted_run_goes_on_to_equal_weights(finished, sets, tmp_path, monkeypatch):
    import retinalib.train as module

    step, count = module.training_step, 0

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 4:  # in the second epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(module, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, *sets, tmp_path / "run", "cpu", workers=0, progress=False)
    monkeypatch.setattr(module, "training_step", step)
    history = train(CONFIG, *sets, tmp_path / "run", "cpu", workers=0, progress=False)
    pd.testing.assert_frame_equal(history, finished[1])
    assert_equal_states(weights(tmp_path / "run"), weights(finished[0]))


def test_training_learns(sets, tmp_path):
    """A handful of images seen fifty times, never cropped alike: every part of the loss falls clearly."""
    config = replace(CONFIG, epochs=50, validate_every=50, learning_rate=1e-2)
    history = train(config, *sets, tmp_path / "run", "cpu", workers=0, progress=False)
    fall = history.iloc[-3:].mean() / history.iloc[0]
    assert fall["landmark"] < 0.85 and fall["box"] < 0.85 and fall["classification"] < 0.7


def test_another_configuration_is_another_run(finished, sets, tmp_path):
    other = replace(CONFIG, learning_rate=1e-4)
    with pytest.raises(ValueError, match="another configuration or other data"):
        train(other, *sets, finished[0], "cpu", progress=False)
    folders = {run_folder(tmp_path, "arm", c, s) for c in (CONFIG, other) for s in sets}
    assert len(folders) == 4 and all(f.name.startswith("arm-0-") for f in folders)


def test_a_loss_that_is_not_finite_stops_and_names_the_images(sets, tmp_path):
    config = replace(CONFIG, learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"the loss is .* at step .*\.jpg.* are kept in"):
        train(config, *sets, tmp_path / "run", "cpu", workers=0, progress=False)
    kept = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert kept["images"].shape == (4, 3, 96, 96) and len(kept["names"]) == 4


def test_a_gradient_that_is_not_finite_updates_nothing(sets):
    images, faces = zip(*(sets[0][number] for number in range(4)), strict=True)
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    targets, anchors = [to_target(f, images.shape[2:]) for f in faces], anchor_grid(*images.shape[2:])
    model = RetinaFace(CONFIG.model).train()
    optimiser = make_optimiser(model, CONFIG)
    model.class_head[2].weight.register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in model.parameters()]
    values = training_step(model, optimiser, images, targets, anchors, CONFIG, torch.Generator(), ALONE)
    assert values.isnan().all() and all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_complete_makes_another_run(sets, tmp_path):
    partly = FaceDataset(sets[0].table, sets[0].images_root, sets[0].schema, complete=False)
    assert run_folder(tmp_path, "arm", CONFIG, partly) != run_folder(tmp_path, "arm", CONFIG, sets[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate_every": 0}, "validate_every must be from 1 on"),
        ({"seed": -1}, "the seed from 0"),
        ({"batch_size": 1, "image_size": 32}, "a single image of 32 pixels"),
        ({"epochs": 0}, "at least one epoch"),
    ],
)
def test_configurations_that_can_not_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_validation_set_without_photos_is_refused_before_anything(sets, tmp_path):
    with pytest.raises(ValueError, match="the validation set has no photos"):
        train(CONFIG, sets[0], sets[1].subset([]), tmp_path / "run", "cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_configuration_a_power_cut_emptied_goes_on(finished, sets, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "config.json").write_text("")
    pd.testing.assert_frame_equal(train(CONFIG, *sets, folder, "cpu", progress=False), finished[1])
    (folder / "metrics.csv").unlink()
    train(CONFIG, *sets, folder, "cpu", progress=False)
    assert (folder / "config.json").read_bytes() == (finished[0] / "config.json").read_bytes()
    (folder / "config.json").write_text("")
    with pytest.raises(ValueError, match="another configuration or other data"):
        train(replace(CONFIG, epochs=3), *sets, folder, "cpu", progress=False)


def test_too_few_images_for_a_batch(sets, tmp_path):
    with pytest.raises(ValueError, match="lower batch_size"):
        train(replace(CONFIG, batch_size=500), *sets, tmp_path / "run", "cpu")


@pytest.mark.parametrize("change", [{"optimiser": "adam"}, {"schedule": "linear"}, {"precision": "half"}, {"epochs": 0}])
def test_bad_configurations_are_refused(change):
    with pytest.raises(ValueError):
        TrainConfig(**change)


def test_unknown_parameters_are_refused():
    with pytest.raises(ValueError, match="unknown training parameters: learnin_rate"):
        TrainConfig.from_dict({"learnin_rate": 1})


def test_learning_rate():
    cosine = [learning_rate_factor(s, 100, CONFIG) for s in range(100)]
    assert cosine[0] == 0.2 and cosine[4] == cosine[5] == 1 and cosine[99] < 0.001
    assert cosine[5:] == sorted(cosine[5:], reverse=True)
    step = [learning_rate_factor(s, 100, replace(CONFIG, schedule="step", warmup=0)) for s in range(100)]
    assert sorted(set(step)) == [0.01, 0.1, 1.0] and step[98] == 0.01


def test_an_empty_data_set_is_named(sets, tmp_path):
    nothing = FaceDataset(sets[0].table.iloc[:0], sets[0].images_root)
    with pytest.raises(ValueError, match="0 training images"):
        train(CONFIG, nothing, sets[1], tmp_path / "run", "cpu")


def test_a_stop_that_was_asked_for_keeps_the_finished_epochs(finished, sets, tmp_path, monkeypatch):
    import retinalib.train as module

    folder, count, step = tmp_path / "run", 0, module.training_step

    def watched(*arguments):
        nonlocal count
        count += 1
        if count == 3:  # the first of the two steps of the second epoch
            request_stop([folder, tmp_path / "not there"])
        return step(*arguments)

    monkeypatch.setattr(module, "training_step", watched)
    with pytest.raises(Stopped, match="run keeps 1 of 2 epochs; start it again to go on"):
        train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)
    assert count == 3 and len(pd.read_csv(folder / "metrics.csv")) == 1
    assert not (tmp_path / "not there").exists()
    pd.testing.assert_frame_equal(train(CONFIG, *sets, folder, "cpu", workers=0, progress=False), finished[1])
    assert_equal_states(weights(folder), weights(finished[0]))
    assert not (folder / "stop").exists()

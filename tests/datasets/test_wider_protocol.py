import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from retinalib import cli
from retinalib.datasets import wider_protocol
from retinalib.datasets.wider_protocol import (
    average_precision,
    read_detections,
    read_truth,
    wider_curves,
    write_detections,
)
from retinalib.evaluate import wider_ap
from tests.shared import SHARED, needs_shared

pytestmark = pytest.mark.filterwarnings("ignore:.* of no photo of the truth that has a face")  # the scene has such photos


def scene(photos=12):
    """Faces in photos, and detections near some of them, twice on others, and on none."""
    rng = np.random.default_rng(0)
    faces, predictions = [], {}
    for photo in range(photos):
        count = int(rng.integers(0, 4))
        corner = rng.uniform(0, 200, (count, 2))
        side = rng.uniform(10, 60, (count, 2))
        for box in np.column_stack([corner, corner + side]):
            faces.append((f"a/{photo}", *box, rng.random() < 0.5, True))
        near = np.repeat(np.column_stack([corner, side]), 2, axis=0) + rng.normal(0, 4, (2 * count, 4))
        boxes = np.concatenate([near, rng.uniform(5, 200, (2, 4))])
        predictions[f"a/{photo}.jpg"] = np.column_stack([boxes, rng.normal(0, 1, len(boxes)).round(2)])
    return pd.DataFrame(faces, columns=["image", "x1", "y1", "x2", "y2", "some", "all"]), predictions


def by_loops(predictions, faces, subset):
    """The official evaluation as it is written: photo by photo, detection by detection, threshold by threshold."""
    scores = np.concatenate([rows[:, 4] for rows in predictions.values()])
    low, high = scores.min(), scores.max()
    sums, total = np.zeros((1000, 2)), 0
    for image, part in faces.groupby("image"):
        boxes, counts = part[["x1", "y1", "x2", "y2"]].to_numpy(), part[subset].to_numpy()
        total += counts.sum()
        rows = predictions[f"{image}.jpg"]
        rows = rows[np.argsort(-rows[:, 4])]
        state, proposal, recalled = np.zeros(len(boxes)), np.ones(len(rows)), []
        for number, (x, y, w, h, _) in enumerate(rows):
            overlaps = []
            for x1, y1, x2, y2 in boxes:
                across = min(x + w, x2) - max(x, x1) + 1
                down = min(y + h, y2) - max(y, y1) + 1
                shared = across * down if across > 0 and down > 0 else 0.0
                overlaps.append(shared / ((w + 1) * (h + 1) + (x2 - x1 + 1) * (y2 - y1 + 1) - shared))
            best = int(np.argmax(overlaps))
            if overlaps[best] >= 0.5:
                if not counts[best]:
                    state[best], proposal[number] = -1, -1
                elif state[best] == 0:
                    state[best] = 1
            recalled.append((state == 1).sum())
        for t in range(1000):
            over = np.flatnonzero((rows[:, 4] - low) / (high - low) >= 1 - (t + 1) / 1000)
            if len(over):
                sums[t] += (proposal[: over[-1] + 1] == 1).sum(), recalled[over[-1]]
    precision = sums[:, 1] / np.maximum(sums[:, 0], 1)
    recall = np.concatenate([[0], sums[:, 1] / total, [1]])
    highest = np.concatenate([[0], precision, [0]])
    for i in range(len(highest) - 1, 0, -1):
        highest[i - 1] = max(highest[i - 1], highest[i])
    return sum((recall[i] - recall[i - 1]) * highest[i] for i in range(1, len(recall))), precision, sums[:, 1] / total


def test_curves_and_ap_are_those_of_the_loops():
    faces, predictions = scene()
    curves, found = wider_curves(predictions, faces), wider_ap(predictions, faces)
    assert list(found) == ["some", "all"] and all(0.1 < area < 0.9 for area in found.values())
    for subset in found:
        area, precision, recall = by_loops(predictions, faces, subset)
        part = curves[curves["subset"] == subset]
        np.testing.assert_allclose(part["precision"], precision)
        np.testing.assert_allclose(part["recall"], recall)
        assert found[subset] == pytest.approx(area, abs=1e-12)


def test_average_precision_by_hand_and_of_nothing():
    assert average_precision(np.array([1 / 3, 1 / 3, 2 / 3]), np.array([1, 1 / 2, 2 / 3])) == pytest.approx(1 / 3 + 2 / 9)
    assert average_precision(np.zeros(0), np.zeros(0)) == 0
    assert average_precision(np.ones((2, 1)), np.array([[0.5], [1.0]])).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    "spelled",
    [
        "{event}/{name}",
        "{event}/{name}.jpg",
        "images/{event}/{name}.JPG",
        "WIDER_val/images/{event}/{name}.jpg",
        "/data/WIDER_val/images/{event}/{name}.jpg",
        "WIDER_val\\images\\{event}\\{name}.jpg",
        "./{event}/{name}.png",
        "{name}",
        "{name}.jpg",
    ],
)
def test_a_photo_is_known_by_any_of_its_names(spelled):
    faces, predictions = scene()
    faces["image"] = "0--A/" + faces["image"].str.split("/").str[1] + "_1.5"
    named = {spelled.format(event="0--A", name=f"{name[2:-4]}_1.5"): rows for name, rows in predictions.items()}
    with pytest.warns(UserWarning, match=r"1 of 12 predictions, such as '.*', are of no photo of the truth that has a face"):
        assert wider_ap(named, faces) == wider_ap(predictions, scene()[0])


def test_names_that_fit_nothing_or_too_much_are_refused():
    faces, rows = scene()[0], np.array([[0, 0, 9, 9, 0.5]])
    for name in ("b/0.jpg", "a/b/0.jpg", "0/a", "00.jpg", ""):
        with pytest.raises(
            ValueError, match=rf"1 of 1 predictions, such as '{name}', are of no .*: names should look like 'a/"
        ):
            wider_ap({name: rows}, faces)
    with pytest.raises(ValueError, match=r"two predictions are of one photo: 'a/1' and 'images/a/1\.jpg'"):
        wider_ap({"a/1": rows, "images/a/1.jpg": rows}, faces)
    both = pd.concat([faces, faces.assign(image=faces["image"].str.replace("a/", "b/"))])
    with pytest.raises(ValueError, match=r"the prediction '1\.jpg' may be of a/1 or of b/1: its name needs the event"):
        wider_ap({"1.jpg": rows}, both)


def test_a_perfect_detector_and_none():
    faces, _ = scene()
    boxes = faces[["x1", "y1", "x2", "y2"]].to_numpy()
    rows = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], np.ones(len(boxes))])
    perfect = {image: rows[numbers] for image, numbers in faces.groupby("image").indices.items()}
    assert wider_ap(perfect, faces) == {"some": pytest.approx(1), "all": pytest.approx(1)}
    assert wider_ap({}, faces) == {"some": 0, "all": 0} and wider_ap(perfect, faces[:0]) == {"some": 0, "all": 0}
    with pytest.raises(ValueError, match="no column of bool"):
        wider_ap({}, faces.drop(columns=["some", "all"]))


@needs_shared
def test_wider_ap_is_the_references():
    data = np.load(SHARED / "reference/wider_val_predictions.npz")
    rows = np.split(data["detections"], data["count"].cumsum()[:-1])
    predictions = dict(zip(data["image_names"].tolist(), rows, strict=True))
    found = wider_ap(predictions, SHARED / "reference/wider_ground_truth")
    np.testing.assert_allclose([found["easy"], found["medium"], found["hard"]], data["expected_ap"], atol=1e-6)
    some = dict(list(predictions.items())[:40])
    with pytest.raises(ValueError, match="numbers that are not finite"):
        wider_ap({"a/b": np.full((1, 5), np.nan), **some}, read_truth(SHARED / "reference/wider_ground_truth"))


def test_wrong_shapes_and_missing_truth(tmp_path):
    for call in (lambda p: wider_ap(p, scene()[0]), lambda p: write_detections(p, tmp_path)):
        with pytest.raises(ValueError, match=r"predictions of a/b must be \(N, 5\)"):
            call({"a/b": np.zeros((3, 4))})
    with pytest.raises(FileNotFoundError, match=r"wider_easy_val\.mat"):
        wider_ap({}, tmp_path)


def test_text_files_there_and_back(tmp_path):
    faces, predictions = scene()
    predictions["b/none.jpg"] = np.zeros((0, 5))
    write_detections(predictions, tmp_path)
    text = (tmp_path / "a" / "0.txt").read_text().splitlines()
    assert text[0] == "0" and int(text[1]) == len(text) - 2 == len(predictions["a/0.jpg"])
    back = read_detections(tmp_path)
    assert set(back) == {name.removesuffix(".jpg") for name in predictions} and back["b/none"].shape == (0, 5)
    for name, rows in predictions.items():
        expected = rows[np.argsort(-rows[:, 4], kind="stable")]
        np.testing.assert_allclose(back[name.removesuffix(".jpg")], expected, rtol=1e-7)
    assert wider_ap(back, faces) == wider_ap(predictions, faces)
    with pytest.raises(ValueError, match="leads out of"):
        write_detections({"../x": np.zeros((0, 5))}, tmp_path)


def test_text_files_of_others(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no event/name\.txt below"):
        read_detections(tmp_path)
    (tmp_path / "event").mkdir()
    file = tmp_path / "event" / "photo.txt"
    file.write_bytes(b"event/photo.jpg\r\n2 \r\n1 2 3 4 0.5 \r\n5 6 7 8 .25\r\n\r\n")
    assert read_detections(tmp_path)["event/photo"].tolist() == [[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.25]]
    for text, said in (
        ("photo\n1\n1 2 3 4\n", r"photo\.txt, line 3: x y w h score belong here, not '1 2 3 4'"),
        ("photo\n1\n1 2 3 4 x\n", "line 3: x y w h score"),
        ("photo\n1\n3\n", "line 3: x y w h score belong here, not '3'"),
        ("photo\n1\n1_0 2 3 4 1\n", "line 3: x y w h score belong here"),
        ("photo\n2\n1 2 3 4 1\n", "2 detections are announced, 1 are there"),
        ("photo\n", "belong into the first two lines"),
        ("", "belong into the first two lines"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_detections(tmp_path)


@needs_shared
def test_from_the_command_line(tmp_path, monkeypatch):
    """A detector on three photos that WIDER FACE's validation and the test folder share, then its text files alone."""
    images = SHARED / "real_faces/WFLW_images"
    truth = read_truth(SHARED / "reference/wider_ground_truth")
    some = [name for name in truth["image"].unique() if (images / f"{name}.jpg").is_file()][:3]
    faces = truth[truth["image"].isin(some)].reset_index(drop=True)
    monkeypatch.setattr(wider_protocol, "read_truth", lambda folder: faces)
    weights = str(SHARED / "reference/mobilenet0.25_Final.pth")

    def call(*arguments):
        done = CliRunner().invoke(cli.main, ["wider-ap", str(tmp_path / "found"), str(tmp_path), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    said = call("--detector", weights, "--images", str(images))
    assert len(some) == 3 and said.startswith("3 photos: easy ") and call() == said
    assert float(said.split("medium ")[1].split(",")[0]) > 0.8

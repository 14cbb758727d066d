import numpy as np
import pandas as pd
import pytest

from retinalib.datasets.wider_protocol import average_precision, read_truth
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
    return sum((recall[i] - recall[i - 1]) * highest[i] for i in range(1, len(recall)))


def test_ap_is_that_of_the_loops():
    faces, predictions = scene()
    found = wider_ap(predictions, faces)
    assert list(found) == ["some", "all"] and all(0.1 < area < 0.9 for area in found.values())
    for subset in found:
        assert found[subset] == pytest.approx(by_loops(predictions, faces, subset), abs=1e-12)


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
    with pytest.raises(ValueError, match="finite numbers"):
        wider_ap({"a/b": np.full((1, 5), np.nan), **some}, read_truth(SHARED / "reference/wider_ground_truth"))


def test_wrong_shapes_and_missing_truth(tmp_path):
    with pytest.raises(ValueError, match=r"predictions of a/b must be \(N, 5\)"):
        wider_ap({"a/b": np.zeros((3, 4))}, scene()[0])
    with pytest.raises(FileNotFoundError, match=r"wider_easy_val\.mat"):
        wider_ap({}, tmp_path)

"""Properties that hold for any input, on inputs that Hypothesis makes up; the same ones in every run."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from retinalib.anchors import AnchorConfig, anchor_grid, decode_boxes, decode_landmarks, encode_boxes, encode_landmarks, match
from retinalib.augment import AugmentConfig, augment
from retinalib.batches import to_target
from retinalib.datasets import wflw, wider
from retinalib.datasets.table import ATTRIBUTES, BOX, FARTHEST, decode_image, safe_relative, usable
from retinalib.evaluate import (
    auc,
    cumulative_error,
    detection_ap,
    evaluate_faces,
    failure_rate,
    match_faces,
    nme,
    precision_recall,
)
from retinalib.faces import Faces, box_iou
from retinalib.landmarks import SCHEMAS, WFLW_98, WIDER_5
from retinalib.loss import LossConfig, multi_task_loss
from retinalib.pupils import foreshortened, pupil_table
from tests.test_anchors import brute_force_match

settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck)
)
settings.load_profile("same")
seeds = st.integers(0, 2**32 - 1)
coordinates = st.floats(-2000, 4000, width=32)


@st.composite
def some_faces(draw, schema=WFLW_98, most=5, span=300.0):
    """Faces with boxes of some area, landmarks anywhere, some of them unknown or not visible."""
    n = draw(st.integers(0, most))
    rng = np.random.default_rng(draw(seeds))
    corner = rng.uniform(-0.2 * span, span, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, span, (n, 2))], 1)
    landmarks = rng.uniform(-span, 2 * span, (n, schema.count, 2))
    landmarks[rng.random((n, schema.count)) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = np.nan
    visible = rng.random((n, schema.count)) < 0.8
    return Faces(boxes, landmarks, visible, rng.uniform(0, 1, n), pd.DataFrame({"number": np.arange(n)}), schema)


# ------------------------------------------------------------------------------------------------------------------- parsers

words = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "nan", "inf", "1e6", "1e39", "1e400", "0 0 0 0", "a/b.jpg", "# a/b.jpg", "../x", "\t", "1_0"]
    ),
    st.integers(-999, 999).map(str),
    st.text(max_size=6),
)
lists_of_words = st.lists(st.lists(words, max_size=24).map(" ".join), max_size=12).map("\n".join).map(str.encode)
long_lines = st.tuples(st.integers(190, 215), words, words, words).map(
    lambda t: " ".join(["7"] * t[0] + ["1", "2", "30", "40", "0", "1", "0", "0", "0", t[1], t[2], t[3]]).encode()
)


def read_bytes(read, data, name="label.txt"):
    """What a reader makes of a file's bytes: a table, or None if it refuses them in a sentence that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                table = read(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return None
    corners = table[BOX].to_numpy(np.float32)
    assert np.isfinite(corners).all() and (np.abs(corners) <= FARTHEST).all() and (corners[:, 2:] > corners[:, :2]).all()
    for image, points in zip(table["image"], table["landmarks"], strict=True):
        assert points.dtype == np.float32 and (np.isnan(points) | (np.abs(points) <= FARTHEST)).all()
        assert (np.isnan(points[:, 0]) == np.isnan(points[:, 1])).all()
        assert not Path(image).is_absolute() and ".." not in Path(image).parts and "\0" not in image
    assert all(line >= 1 and reason for line, reason in [*table.attrs["set_aside"], *table.attrs["repaired"]])
    return table


@given(st.one_of(st.binary(max_size=300), lists_of_words, long_lines))
@settings(max_examples=150)
@pytest.mark.parametrize("read", [wflw.read_annotations, wider.read_boxes, wider.read_labels])
def test_a_list_is_read_or_refused_in_a_sentence(read, data):
    table = read_bytes(read, data)
    if table is not None:  # no line is two faces, and none is made up
        assert table["line"].is_unique and len(table) + len(table.attrs["set_aside"]) <= len(data.splitlines())


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), min_size=1, max_size=12)


@given(st.lists(st.tuples(seeds, names, st.integers(0, 63)), min_size=1, max_size=5))
def test_wflw_round_trip(rows):
    drawn = []
    for number, (seed, name, flags) in enumerate(rows):
        rng = np.random.default_rng(seed)
        image = f"a/{name}.jpg"
        try:
            assume(safe_relative(image) == image)
        except ValueError:
            assume(False)
        box = [number, 20, number + rng.integers(1, 900), 20 + rng.integers(1, 900)]
        points = rng.uniform(-2, 3, (98, 2)).astype(np.float32) * max(box[2] - box[0], box[3] - box[1]) + box[:2]
        points[rng.random(98) < 0.1] = np.nan
        drawn.append([image, *box, *(bool(flags >> bit & 1) for bit in range(6)), points])
    table = pd.DataFrame(drawn, columns=["image", *BOX, *ATTRIBUTES, "landmarks"])
    with tempfile.TemporaryDirectory() as folder:
        wflw.write_annotations(table, Path(folder) / "list.txt")
        again = wflw.read_annotations(Path(folder) / "list.txt")
    assert again["image"].tolist() == table["image"].tolist() and not again.attrs["set_aside"]
    assert (again[[*BOX, *ATTRIBUTES]].to_numpy(float) == table[[*BOX, *ATTRIBUTES]].to_numpy(float)).all()
    np.testing.assert_allclose(np.stack(again["landmarks"]), np.stack(table["landmarks"]), atol=1e-3)


@given(st.lists(st.lists(st.tuples(*[st.integers(1, 999)] * 4), max_size=4, unique=True), min_size=1, max_size=5))
def test_wider_lists_and_labels_say_the_same(photos):
    boxes = labels = ""
    for number, faces in enumerate(photos):
        rows = [" ".join(map(str, face)) for face in faces]
        boxes += "\n".join([f"e/{number}.jpg", str(len(rows)), *(rows or ["0 0 0 0"])]) + "\n"
        labels += "\n".join([f"# e/{number}.jpg", *rows]) + "\n"
    a, b = read_bytes(wider.read_boxes, boxes.encode()), read_bytes(wider.read_labels, labels.encode())
    expected = [[f"e/{n}.jpg", x, y, x + w, y + h] for n, faces in enumerate(photos) for x, y, w, h in faces]
    assert a[["image", *BOX]].to_numpy().tolist() == b[["image", *BOX]].to_numpy().tolist() == expected
    bare = [f"e/{n}.jpg" for n, faces in enumerate(photos) if not faces]
    assert [name for _, name in a.attrs["no_faces"]] == [name for _, name in b.attrs["no_faces"]] == bare


@given(st.text(max_size=30))
def test_paths_stay_in_their_folder(text):
    try:
        path = safe_relative(text)
    except ValueError:
        return
    assert (Path("/base") / path).resolve().is_relative_to("/base") and (Path("/base") / path).resolve() != Path("/base")
    assert safe_relative(path) == path


strange = st.one_of(st.floats(width=64), st.just(-1.0), st.floats(-50, 150))


@given(arrays(float, st.tuples(st.integers(0, 4), st.just(5), st.just(2)), elements=strange), seeds)
def test_no_table_brings_what_can_not_be_learned(points, seed):
    """Made by hand, of any numbers: what is left has boxes of some area and landmarks near them or unknown."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-50, 150, (len(points), 4))
    boxes[rng.random(boxes.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1.0])
    given_table = pd.DataFrame(boxes, columns=BOX).assign(image="a.jpg", landmarks=list(points))
    table = usable(given_table, WIDER_5)
    assert len(table) + len(table.attrs["set_aside"]) == len(points)
    corners, found = table[BOX].to_numpy(), np.array(table["landmarks"].to_list(), np.float32).reshape(-1, 5, 2)
    assert np.isfinite(corners).all() and (corners[:, 2:] > corners[:, :2]).all()
    known = np.isfinite(found)
    assert (known[..., 0] == known[..., 1]).all() and not (found == -1).all(-1).any()
    side = (corners[:, 2:] - corners[:, :2]).max(1)[:, None, None]
    near = (found >= corners[:, None, :2] - 5.001 * side) & (found <= corners[:, None, 2:] + 5.001 * side)
    assert (near | ~known).all()
    again = usable(table, WIDER_5)  # checked tables stay as they are
    pd.testing.assert_frame_equal(again, table)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"II*\0\x08\0\0\0", b"BM", b"GIF89a"]),
)
def test_no_bytes_but_an_image_or_a_sentence(data, start):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decode_image(start + data, "photo")
    except ValueError as error:
        assert "photo" in str(error)
        return
    assert image.ndim == 3 and image.dtype == np.uint8


# ------------------------------------------------------------------------------------------------------------------ geometry


@given(some_faces(), st.floats(0.1, 9), st.floats(0.1, 9), st.floats(-500, 500), st.floats(-500, 500))
def test_a_transformation_is_undone_by_its_inverse(faces, sx, sy, dx, dy):
    moved = faces.transformed((sx, sy), (dx, dy))
    back = moved.transformed((1 / sx, 1 / sy), (-dx / sx, -dy / sy))
    np.testing.assert_allclose(back.boxes, faces.boxes, atol=0.05)
    np.testing.assert_allclose(back.landmarks, faces.landmarks, atol=0.05)
    np.testing.assert_allclose(moved.landmarks, faces.landmarks * [sx, sy] + [dx, dy], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(moved.boxes[:, 3], faces.boxes[:, 3] * sy + dy, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(moved.size, faces.size * np.sqrt(sx * sy), rtol=1e-2)
    assert (back.visible == faces.visible).all() and (moved.boxes[:, 2:] > moved.boxes[:, :2]).all()


@given(st.sampled_from(list(SCHEMAS)).flatmap(lambda name: some_faces(SCHEMAS[name])), st.integers(1, 3000))
def test_two_flips_are_none(faces, width):
    once, again = faces.flipped(width), faces.flipped(width).flipped(width)
    np.testing.assert_allclose(again.boxes, faces.boxes, atol=1e-3)
    np.testing.assert_allclose(again.landmarks, faces.landmarks, atol=1e-3)
    assert (again.visible == faces.visible).all() and once.visible.sum() == faces.visible.sum()
    np.testing.assert_allclose(once.size, faces.size, rtol=1e-3)
    right, left = faces.schema.pupils
    np.testing.assert_allclose(once.landmarks[:, left], faces.landmarks[:, right] * [-1, 1] + [width, 0], atol=1e-3)
    assert (once.boxes[:, 2:] > once.boxes[:, :2]).all() and once.attributes.equals(faces.attributes)


@given(some_faces(most=8), st.integers(1, 300), st.integers(1, 300), seeds)
def test_a_crop_keeps_points_where_the_picture_has_them(faces, height, width, seed):
    """A picture whose pixels say where they were: every visible landmark of a crop still lies on its own pixel's values."""
    x, y = np.meshgrid(np.arange(width) * 255 // max(width - 1, 1), np.arange(height) * 255 // max(height - 1, 1))
    image = np.stack([x, y, np.full_like(x, 77)], -1).astype(np.uint8)
    still = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0, flip=0)
    crop, kept = augment(image, faces, 64, np.random.default_rng(seed), still)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8 and len(kept) <= len(faces)
    assert (kept.boxes >= 0).all() and (kept.boxes <= 64).all() and (kept.boxes[:, 2:] - kept.boxes[:, :2] >= 1).all()
    before, inside = faces[kept.attributes["number"].to_numpy()], ((kept.landmarks >= 0) & (kept.landmarks <= 64)).all(-1)
    assert (kept.visible == before.visible & inside).all()
    before = before.landmarks
    known = np.isfinite(before).all(-1)
    assert (np.isfinite(kept.landmarks).all(-1) == known).all()
    if known.sum() > 1:  # one shift and one scale for all points of the crop
        a, b = before[known], kept.landmarks[known]
        scale = (b - b.mean(0)).std() / (a - a.mean(0)).std()
        np.testing.assert_allclose(b - b.mean(0), (a - a.mean(0)) * scale, atol=0.05)
    target = to_target(kept, (64, 64))
    assert target.boxes.dtype == torch.float32 and (target.boxes <= 1).all()


# ------------------------------------------------------------------------------------------------------- anchors and the loss


@given(seeds, st.integers(1, 130), st.integers(1, 130))
def test_anchors_cover_the_image_and_codes_come_back(seed, height, width):
    anchors = anchor_grid(height, width)
    config = AnchorConfig()
    assert len(anchors) == sum(rows * columns for rows, columns in config.levels(height, width)) * config.per_cell
    pixels = anchors * torch.tensor([width, height, width, height])
    assert set(pixels[:, 2].round().int().tolist()) == {16, 32, 64, 128, 256, 512}
    assert pixels[:, 0].max() >= width - 16 and pixels[:, 1].max() >= height - 16
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(len(anchors), 2, generator=generator) * 2 - 0.5
    boxes = torch.cat([low, low + torch.rand(len(anchors), 2, generator=generator) + 1e-3], 1)
    landmarks = torch.randn(len(anchors), 5, 2, generator=generator)
    for variances in ((0.1, 0.2), (1.0, 0.5)):
        codes = encode_boxes(boxes, anchors, variances)
        torch.testing.assert_close(decode_boxes(codes, anchors, variances), boxes, atol=1e-4, rtol=1e-4)
        codes = encode_landmarks(landmarks, anchors, variances)
        torch.testing.assert_close(decode_landmarks(codes, anchors, variances), landmarks, atol=1e-4, rtol=1e-4)


@given(seeds, st.integers(1, 8), st.sampled_from([(0.35, 0.2), (0.5, 0.5), (0.2, 0.05)]))
@settings(max_examples=25)
def test_matching_is_the_brute_force_one(seed, faces, thresholds):
    rng = np.random.default_rng(seed)
    anchors = anchor_grid(40, 64)
    corner = rng.uniform(-0.2, 1, (faces, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.02, 1, (faces, 2))], 1).astype(np.float32)
    centre, size = np.split(anchors.numpy().astype(float), 2, axis=1)
    overlap = box_iou(boxes.astype(float), np.concatenate([centre - size / 2, centre + size / 2], 1))
    best = np.sort(overlap, 1)[:, -2:]
    assume((np.diff(best) > 1e-5).all())  # of two anchors that a face overlaps equally, rounding chooses
    matched = match(torch.from_numpy(boxes), anchors, *thresholds)
    assert matched.tolist() == brute_force_match(boxes, anchors.tolist(), *thresholds)


@st.composite
def extreme_targets(draw):
    """Faces as data may hold them: of a pixel or far more than the photo, points up to 100,000 pixels off or unknown."""
    faces = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(0, 4))
        rng = np.random.default_rng(draw(seeds))
        middle, side = rng.uniform(0, 64, (n, 2)), np.exp(rng.uniform(0, np.log(draw(st.sampled_from([2, 64, 1e5]))), (n, 2)))
        boxes = np.concatenate([middle - side / 2, middle + side / 2], 1)
        landmarks = rng.uniform(-1, 1, (n, 98, 2)) * draw(st.sampled_from([0, 64, 1e5]))
        landmarks[rng.random((n, 98)) < draw(st.sampled_from([0, 0.5, 1]))] = np.nan
        faces.append(to_target(Faces(boxes, landmarks), (64, 64), draw(st.booleans())))
    return faces


@given(extreme_targets(), seeds, st.sampled_from([0.0, 1.0, 30.0]))
@settings(max_examples=100)
def test_loss_and_gradients_are_finite_whatever_the_faces(targets, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    anchors = anchor_grid(64, 64)
    shape = (len(targets), len(anchors))
    logits, boxes, dense = ((torch.randn(*shape, n, generator=generator) * spread).requires_grad_() for n in (2, 4, 196))
    config = LossConfig(pupil_weight=5.0)
    eyes = (WFLW_98.right_eye, WFLW_98.left_eye)
    parts = multi_task_loss(logits, boxes, lambda i, a: dense[i, a], targets, anchors, config, eyes=eyes)
    assert all(part.isfinite() and part >= 0 for part in parts)
    (parts.total + 0 * (logits.sum() + boxes.sum() + dense.sum())).backward()
    assert all(values.grad.isfinite().all() for values in (logits, boxes, dense))


# ------------------------------------------------------------------------------------------------------------------- metrics


@given(
    seeds,
    st.floats(0.01, 100),
    st.floats(-np.pi, np.pi),
    coordinates,
    coordinates,
    st.sampled_from(["inter_ocular", "inter_pupil"]),
)
def test_nme_does_not_feel_where_how_large_and_how_tilted_a_face_is(seed, scale, angle, dx, dy, normaliser):
    rng = np.random.default_rng(seed)
    true, predicted = rng.uniform(0, 100, (2, 3, 98, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    before = nme(predicted, true, normaliser=normaliser)
    after = nme(predicted @ turn.T + [dx, dy], true @ turn.T + [dx, dy], normaliser=normaliser)
    np.testing.assert_allclose(after, before, rtol=1e-6)
    flip = list(WFLW_98.flip_order)
    mirrored = nme(predicted[:, flip] * [-1, 1], true[:, flip] * [-1, 1], normaliser=normaliser)
    np.testing.assert_allclose(mirrored, before, rtol=1e-9)


@given(seeds)
def test_a_mirrored_face_has_the_other_eye_foreshortened(seed):
    points = np.random.default_rng(seed).uniform(0, 100, (3, 98, 2))
    flipped = Faces(np.zeros((3, 4)), points).flipped(50).landmarks
    assert (foreshortened(flipped, WFLW_98) == foreshortened(points, WFLW_98)[:, ::-1]).all()


@given(some_faces(most=4))
def test_every_face_has_its_row_of_the_pupils(faces):
    table = pupil_table(faces)
    assert len(table) == len(faces) and table["number"].tolist() == list(range(len(faces)))


errors_of_faces = arrays(
    float, array_shapes(max_dims=1, max_side=30), elements=st.floats(0, 2) | st.just(np.nan) | st.just(np.inf)
)


@given(errors_of_faces, st.floats(0.01, 1))
def test_failures_and_auc_are_shares_that_agree(errors, threshold):
    failures, area = failure_rate(errors, threshold), auc(errors, threshold)
    curve = cumulative_error(errors, threshold)["share"]
    assert 0 <= failures <= 1 and 0 <= area <= 1 - failures + 1e-9
    assert curve.is_monotonic_increasing and curve.iloc[-1] == pytest.approx(1 - failures)
    assert auc(errors / 2, threshold) >= area - 1e-12 and failure_rate(errors / 2, threshold) <= failures
    assert area == pytest.approx(curve.mean(), abs=0.006)
    again = np.concatenate([errors, errors])
    assert auc(again, threshold) == pytest.approx(area) and failure_rate(again, threshold) == failures


@given(st.lists(st.tuples(some_faces(WIDER_5), some_faces(WIDER_5)), min_size=1, max_size=4), st.integers(0, 9))
def test_ap_is_a_share_that_better_detections_raise(photos, surplus):
    predicted, true = map(list, zip(*photos, strict=True))
    total = sum(map(len, true))
    ap = detection_ap(predicted, true)
    if not total:
        assert np.isnan(ap)
        return
    assert 0 <= ap <= 1
    recall = precision_recall(predicted, true)["recall"].dropna()  # rows of missed faces have none
    assert recall.is_monotonic_increasing and ap <= max(recall, default=0) + 1e-9
    monotone = [Faces(f.boxes, f.landmarks, scores=f.scores**3 / 2, schema=f.schema) for f in predicted]
    assert detection_ap(monotone, true) == pytest.approx(ap)  # the order of the scores counts, not the scores
    far = np.array([[9000, 9000, 9010 + i, 9010] for i in range(surplus)]).reshape(-1, 4)
    wrong = Faces(far, np.zeros((surplus, 5, 2)), scores=np.ones(surplus), schema=WIDER_5)
    assert detection_ap([*predicted, wrong], [*true, Faces.empty(WIDER_5)]) <= ap + 1e-9
    assert detection_ap(true, true) == pytest.approx(1)


@given(some_faces(), some_faces())
def test_matching_of_detections_is_one_to_one_and_over_its_threshold(predicted, true):
    matched = match_faces(predicted, true)
    hit = matched >= 0
    assert len(set(matched[hit])) == hit.sum() and (matched < len(predicted)).all()
    overlap = box_iou(predicted.boxes, true.boxes)
    assert all(overlap[matched[f], f] >= 0.5 for f in np.flatnonzero(hit))
    assert (match_faces(true, true) >= 0).all()
    predicted.landmarks = np.nan_to_num(predicted.landmarks)  # predictions are whole
    table = evaluate_faces([predicted], [true])
    assert len(table) <= len(true) and table.loc[~table["matched"], "nme"].isna().all()


@given(some_faces(most=6), some_faces(most=6), st.floats(0.1, 20), coordinates)
def test_iou_is_torchvisions_symmetric_and_does_not_feel_scale_and_shift(a, b, scale, shift):
    a, b = a.boxes.astype(float), b.boxes.astype(float)
    iou = box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
    for same in (box_iou(b, a).T, torchvision.ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()):
        np.testing.assert_allclose(iou, same, atol=1e-9)
    np.testing.assert_allclose(box_iou(a * scale + float(shift), b * scale + float(shift)), iou, atol=2e-3)

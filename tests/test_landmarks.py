from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from retinalib.config import PROFILES
from retinalib.datasets.table import FaceDataset
from retinalib.detect import load_detector
from retinalib.evaluate import evaluate_faces
from retinalib.landmarks import WFLW_98, WIDER_5, Eye, LandmarkSchema
from retinalib.plots.style import draw_faces
from retinalib.pupils import pupil_offset, pupil_table
from retinalib.rendered.dataset import render_face
from retinalib.train import train
from tests.pictures import rendered_faces
from tests.shared import IBUG_68, PLATE_4, SHARED, needs_shared


def test_the_known_schemas():
    """Their order of mirrored points, their eyes and regions fit together, or they would be refused, see below."""
    assert WFLW_98.count == 98 and WFLW_98.pupils == (96, 97) and WFLW_98.inter_ocular == (60, 72)
    assert WIDER_5.inter_ocular == (0, 1) and WIDER_5.region_of() == ["eyes", "eyes", "nose", "mouth", "mouth"]
    canthi = {number for eye in (WFLW_98.right_eye, WFLW_98.left_eye) for number in (eye.outer, eye.inner)}
    assert set(WFLW_98.rigid) == set(WFLW_98.regions["nose"]) | canthi  # what neither jaw, lips, brows nor lids move
    assert not WFLW_98.right_eye.left and WFLW_98.left_eye.left


@needs_shared
def test_mirrored_real_faces_have_the_real_mean_shape():
    """The order is right if mirrored faces, renumbered, look like faces: far nearer than with any two points exchanged."""
    path = SHARED / "real_faces/WFLW_annotations/list_98pt_test_attributed_faces.txt"
    points = np.array([line.split()[:196] for line in path.read_text().splitlines()], float).reshape(-1, 98, 2)
    z = points[..., 0] + 1j * points[..., 1]
    right, left = z[:, list(WFLW_98.inter_ocular)].T
    z = (z - ((right + left) / 2)[:, None]) / (left - right)[:, None]  # upright, unit inter-ocular distance
    shape = np.stack([np.median(z.real, 0), np.median(z.imag, 0)], 1)
    mirrored = shape[list(WFLW_98.flip_order)] * [-1, 1]
    distance = np.linalg.norm(mirrored[:, None] - shape[None], axis=2)
    assert (distance.argmin(1) == np.arange(98)).mean() > 0.95 and np.diag(distance).max() < 0.08


ALL = {"all": (0, 1, 2, 3)}
SIDES = {"right cheek": (0, 1), "left cheek": (2, 3)}
SAME, CROSS = (0, 1, 2, 3), (2, 3, 0, 1)


@pytest.mark.parametrize(
    ("regions", "flip_order", "eyes", "more", "message"),
    [
        ({"all": (0, 1)}, SAME, (), {}, "each of the 4 landmarks exactly once"),
        (ALL, (1, 2, 0, 3), (), {}, "an involution of 4 landmarks"),
        (ALL, SAME, (), {"rigid": (4,)}, "rigid landmarks"),
        (ALL, SAME, (), {"closed_regions": frozenset({"mouth"})}, "closed_regions must name regions"),
        (ALL, CROSS, (Eye(0),), {}, "both eyes are given, or neither"),
        (ALL, CROSS, (Eye(0), Eye(4)), {}, "the left eye has a landmark beyond the 4, counted from 0"),
        (ALL, CROSS, (Eye(), Eye()), {}, "the right eye needs a pupil, or both canthi"),
        (ALL, CROSS, (Eye(None, 0, 1, (0,)), Eye(None, 2, 3, (2,))), {}, "the right eye has lids without canthi"),
        (ALL, SAME, (Eye(0), Eye(1)), {}, "flip_order must exchange the two eyes, point by point"),
        (ALL, CROSS, (Eye(None, 0, 1), Eye(None, 3, 2)), {}, "flip_order must exchange the two eyes"),
        (SIDES, SAME, (), {}, "flip_order must exchange right cheek and its counterpart"),
    ],
)
def test_wrong_schemas_are_refused(regions, flip_order, eyes, more, message):
    with pytest.raises(ValueError, match=f"schema x: .*{message}"):
        LandmarkSchema("x", 4, regions, flip_order, *eyes, **more)


def test_what_a_schema_lacks_is_said_when_asked_for():
    assert IBUG_68.inter_ocular == (36, 45) and IBUG_68.right_eye.middle == (36, 37, 38, 39, 40, 41)
    with pytest.raises(ValueError, match="schema ibug68 has no pupils"):
        IBUG_68.pupils  # noqa: B018
    with pytest.raises(ValueError, match="schema plate4 has no eyes, so no inter-ocular distance"):
        PLATE_4.inter_ocular  # noqa: B018


def test_numbers_do_not_say_which_eye_is_left():
    """The left eye of another schema may be numbered from its outer canthus, as the right one is."""
    left = WFLW_98.left_eye
    again = np.arange(98)
    again[[left.inner, left.outer]] = left.outer, left.inner  # its canthi change numbers
    other = replace(left, outer=left.inner, inner=left.outer)
    assert (other.outer < other.inner) != (left.outer < left.inner)
    points = render_face(size=160, person=4)[1].landmarks
    np.testing.assert_allclose(pupil_offset(points[:, again], other), pupil_offset(points, left))


@pytest.mark.parametrize("schema", [WIDER_5, IBUG_68, PLATE_4], ids=["5 points", "68 without pupils", "corners of a plate"])
def test_own_schemas_train_detect_measure_and_draw(tmp_path_factory, schema):
    """Nothing is registered; the run's checkpoint brings the schema along."""
    folder, sets = tmp_path_factory.mktemp("run"), []
    for faces in rendered_faces(tmp_path_factory, 12, seed=3, size=96):
        points = [np.asarray(p)[: schema.count] for p in faces.table["landmarks"]]
        table = faces.table[["image", "line", "x1", "y1", "x2", "y2"]].assign(landmarks=points)
        sets.append(FaceDataset(table, faces.images_root, schema))
    train(PROFILES["quick"].train_config(epochs=1, schema=schema), *sets, folder, "cpu", workers=0, progress=False)
    detector = load_detector(folder, "cpu")
    assert detector.model.config.schema == schema and 0 < detector.model.config.trained_on.largest <= 128
    image, truth = sets[1][0]
    found = detector.detect(image, score_threshold=0, max_faces=3)
    assert found.landmarks.shape == (3, schema.count, 2)
    table = evaluate_faces([truth], [truth])
    assert isinstance(table, pd.DataFrame) and len(table) == len(truth) > 0 and table["nme"].max() == 0
    draw_faces(Figure().subplots(), image, truth=truth, predicted=found)
    with pytest.raises(ValueError, match=f"schema {schema.name} has no"):
        pupil_table(found)

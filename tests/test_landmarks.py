import numpy as np
import pytest

from retinalib.landmarks import SCHEMAS, WFLW_98, WIDER_5, Eye, LandmarkSchema
from retinalib.pupils import pupil_offset
from retinalib.rendered.dataset import render_face
from tests.shared import SHARED, needs_shared


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_flip_order_exchanges_right_and_left(schema):
    order = np.array(schema.flip_order)
    assert sorted(order) == list(range(schema.count)) and (order[order] == np.arange(schema.count)).all()
    assert order[schema.pupils[0]] == schema.pupils[1]
    assert order[schema.inter_ocular[0]] == schema.inter_ocular[1]
    right, left = schema.right_eye, schema.left_eye
    assert [order[i] for i in right.lids] == list(left.lids)
    assert [order[i] for i in right.upper + right.lower] == list(left.upper + left.lower)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_regions_hold_each_point_once(schema):
    names = schema.region_of()
    assert len(names) == schema.count and set(names) == set(schema.regions)
    assert schema.closed_regions <= set(schema.regions)


def test_rigid_points_are_the_nose_and_the_canthi():
    """What neither jaw, lips, brows nor lids move."""
    canthi = {eye.outer for eye in (WFLW_98.right_eye, WFLW_98.left_eye)} | {WFLW_98.right_eye.inner, WFLW_98.left_eye.inner}
    assert set(WFLW_98.rigid) == set(WFLW_98.regions["nose"]) | canthi and len(canthi) == 4


def test_wflw_numbers():
    assert WFLW_98.count == 98 and WFLW_98.pupils == (96, 97) and WFLW_98.inter_ocular == (60, 72)
    assert WIDER_5.inter_ocular == (0, 1)


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


def test_wrong_schemas_are_refused():
    eyes = Eye(0), Eye(1)
    with pytest.raises(ValueError, match="each of the 3 landmarks exactly once"):
        LandmarkSchema("x", 3, {"all": (0, 1)}, (0, 1, 2), *eyes)
    with pytest.raises(ValueError, match="involution"):
        LandmarkSchema("x", 3, {"all": (0, 1, 2)}, (1, 2, 0), *eyes)


def test_numbers_do_not_say_which_eye_is_left():
    """The left eye of another schema may be numbered from its outer canthus, as the right one is."""
    left = WFLW_98.left_eye
    again = np.arange(98)
    again[[left.inner, left.outer]] = left.outer, left.inner  # its canthi change numbers
    new = {int(old): number for number, old in enumerate(again)}
    moved = lambda points: tuple(new[p] for p in points)  # noqa: E731
    schema = LandmarkSchema(
        "other98",
        98,
        {name: moved(points) for name, points in WFLW_98.regions.items()},
        tuple(new[WFLW_98.flip_order[again[i]]] for i in range(98)),
        WFLW_98.right_eye,
        Eye(left.pupil, new[left.outer], new[left.inner], moved(left.lids), moved(left.upper), moved(left.lower)),
    )
    assert (schema.left_eye.outer < schema.left_eye.inner) != (left.outer < left.inner)
    points = render_face(size=160, person=4)[1].landmarks
    np.testing.assert_allclose(pupil_offset(points[:, again], schema.left_eye), pupil_offset(points, left))

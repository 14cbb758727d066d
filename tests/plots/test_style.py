import matplotlib.pyplot as plt
import numpy as np
import pytest

from retinalib.faces import Faces
from retinalib.landmarks import SCHEMAS, WFLW_98, WIDER_5, Eye, LandmarkSchema
from retinalib.plots.style import REGION_COLOURS, crop_face, draw_faces, region_colours, region_lines, save_figure, use_style


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def some(n=2, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(5, 60, (n, 2))
    boxes = np.concatenate([corner, corner + 40], 1)
    return Faces(boxes, corner[:, None] + rng.uniform(0, 40, (n, 98, 2)))


def test_figures_are_whole_and_the_same_every_time(tmp_path):
    files = []
    for folder in ("a", "b"):
        use_style()
        fig, ax = plt.subplots()
        draw_faces(ax, np.zeros((110, 110, 3), np.uint8), some(), regions=True)
        save_figure(fig, "figure", tmp_path / folder)
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == ["figure.pdf", "figure.png"]
        files.append([p.read_bytes() for p in sorted((tmp_path / folder).iterdir())])
    assert files[0] == files[1]
    assert files[0][0][:4] == b"%PDF" and files[0][1][1:4] == b"PNG"


def pixels(truth=None, predicted=None, **options):
    """What is drawn over a black picture of 100 × 100, pixel for pixel."""
    fig = plt.figure(figsize=(1, 1), dpi=100)
    ax = fig.add_axes((0, 0, 1, 1))
    draw_faces(ax, np.zeros((100, 100, 3), np.uint8), truth, predicted, **options)
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)


def test_landmarks_are_drawn_where_they_are():
    points = np.full((1, 98, 2), np.nan)
    points[0, 0] = 30, 70
    shown = pixels(Faces([[10, 10, 90, 90]], points), boxes=False)
    rows, columns = np.nonzero(shown.sum(-1) > 100)
    assert abs(rows.mean() + 0.5 - 70) < 0.6 and abs(columns.mean() + 0.5 - 30) < 0.6


def test_truth_is_green_and_predictions_are_blue():
    face = Faces([[20, 20, 80, 80]], np.full((1, 98, 2), np.nan))
    green, blue = pixels(face), pixels(None, face)
    assert (green.max((0, 1)).argmax(), blue.max((0, 1)).argmax()) == (1, 2)
    assert green[50, 20].sum() > 100 and green[50, 50].sum() == 0


def test_nothing_to_draw():
    assert pixels(Faces.empty(), Faces.empty(WIDER_5), numbers=True, regions=True).sum() == 0
    unknown = Faces([[0, 0, 50, 50]], np.full((1, 98, 2), np.nan))
    assert pixels(unknown, numbers=True, regions=True, boxes=False).sum() == 0


def test_numbers_of_closed_lips_stay_on_their_side():
    points, lips = np.full((1, 98, 2), np.nan), list(WFLW_98.regions["inner lips"])
    points[0, lips] = [[30, 60], [40, 59], [50, 59], [60, 59], [70, 60], [60, 61], [50, 61], [40, 61]]
    _, ax = plt.subplots()
    draw_faces(ax, np.zeros((100, 100, 3), np.uint8), Faces([[0, 0, 100, 100]], points), numbers=True)
    at = {text.get_text(): text.xy for text in ax.texts}
    assert at["90"][1] < 60 < at["94"][1] and len(at) == len(lips)


def test_numbers_of_brows_stand_over_their_points():
    """Beside them, those of a lower row would lie on the line, and below it on the eye; its ends have theirs beside it."""
    points, brow = np.full((1, 98, 2), np.nan), list(WFLW_98.regions["left brow"])
    points[0, brow] = [[20, 40], [35, 35], [50, 34], [65, 36], [80, 42], [66, 44], [50, 43], [35, 43], [20, 46]]
    _, ax = plt.subplots()
    draw_faces(ax, np.zeros((100, 100, 3), np.uint8), Faces([[0, 0, 100, 100]], points), numbers=True)
    at = {int(text.get_text()): np.array(text.xy) - points[0, int(text.get_text())] for text in ax.texts}
    assert sorted(at) == brow
    assert all(abs(at[i][0]) < 1e-6 and at[i][1] < 0 for i in brow if i not in (brow[0], brow[4], brow[8]))
    assert at[brow[0]][0] < 0 and at[brow[8]][0] < 0 and at[brow[4]][0] > 0


def test_lines_run_through_the_regions():
    points = np.random.default_rng(0).uniform(size=(98, 2))
    lines = region_lines(points, WFLW_98)
    assert "pupils" not in lines and len(lines["contour"]) == 33
    assert (lines["right eye"][0] == lines["right eye"][-1]).all() and len(lines["right eye"]) == 9
    nose = lines["nose"]  # its ridge of four points, then its base
    assert np.isnan(nose[4]).all() and (np.delete(nose, 4, axis=0) == points[list(WFLW_98.regions["nose"])]).all()
    points[60] = np.nan
    assert np.isfinite(region_lines(points, WFLW_98)["right eye"]).all()
    assert region_lines(points[:5], WIDER_5) == {}


@pytest.mark.parametrize("extent", [12, 60, 400])
def test_cut_faces_keep_their_points(extent):
    """A mark painted on a landmark is found where the cut face has it, enlarged or shrunk."""
    image = np.zeros((500, 500, 3), np.uint8)
    corner = np.array([40, 50])
    point = corner + extent // 4
    half = max(1, extent // 12)
    image[point[1] - half : point[1] + half, point[0] - half : point[0] + half] = 255
    landmarks = np.full((1, 98, 2), np.nan)
    landmarks[0, 7] = point
    crop, face = crop_face(image, Faces([[*corner, *(corner + extent)]], landmarks), 0, 100)
    assert crop.shape == (100, 100, 3) and len(face) == 1
    rows, columns = np.nonzero((crop[..., 0] > 140) & (crop[..., 0] != 128))
    assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], face.landmarks[0, 7], atol=1.2)
    assert np.allclose(face.boxes[0], [100 * 0.15 / 1.3, 100 * 0.15 / 1.3, 100 * 1.15 / 1.3, 100 * 1.15 / 1.3], atol=0.6)


def test_regions_of_any_schema_have_colours():
    """Those that the house style knows keep theirs; all of a schema differ from each other."""
    for schema in SCHEMAS.values():
        colours = region_colours(schema)
        assert colours == {name: REGION_COLOURS[name] for name in schema.regions} and len(set(colours.values())) == len(colours)
    schema = LandmarkSchema("mine", 4, {"eyes": (0, 1), "chin": (2,), "hat": (3,)}, (1, 0, 2, 3), Eye(0), Eye(1))
    colours = region_colours(schema)
    assert colours["eyes"] == REGION_COLOURS["eyes"] and colours["chin"] != colours["hat"]
    face = Faces(np.array([[0.0, 0, 50, 50]]), np.array([[[10.0, 20], [40, 20], [25, 45], [25, 2]]]), schema=schema)
    assert pixels(face, regions=True, boxes=False).sum() > 0

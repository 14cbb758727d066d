"""The chapters' explorers in a real browser: JupyterLab runs the cells that they need (all cells run in test_notebooks), a hand
moves the controls, and the pictures follow.

Needs Playwright (a development dependency) and Chromium (``apt-get install chromium``, or its path in ``CHROMIUM``); skipped
where one is missing. Chapters 1 to 3 look at real faces where they are at hand.
"""

import ast
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time

import cv2
import nbformat
import pandas as pd
import pytest

from retinalib import rendered
from retinalib.workspace import PROJECT
from tests.shared import SHARED

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is not None and subprocess.run([CHROMIUM, "--version"], capture_output=True, check=False).returncode:
    CHROMIUM = None  # half installed, or a stub that only says where to get it
NOTEBOOKS = sorted(path.stem for path in (PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EXPLORER = r"\b(watch|\w+_(browser|explorer|viewer))\("  # what shows one
EPOCHS = 5  # of the training that is watched: enough to be stopped before its end
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
SLOW = 900_000  # ms: the longest chapter, several times over

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or name it in CHROMIUM"),
    pytest.mark.timeout(2 * SLOW / 1000),
]


def names(source, context):
    """The names that a cell uses (``ast.Load``) or gives (``ast.Store``)."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
    return found | {node.name for node in nodes if context is ast.Store and isinstance(node, ast.FunctionDef)}


def needed(cells):
    """Imports, parameters and setup, the explorers of a chapter, and what gives the names that they use."""
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    explorers = [number for number, source in enumerate(sources) if number >= 3 and re.search(EXPLORER, source)]
    kept, wanted = {0, 1, 2}, set()
    for number in range(len(sources) - 1, 2, -1):
        gives = names(sources[number], ast.Store)
        if number in explorers[-1:] or re.search(r"\bwatch\(", sources[number]) or gives & wanted:
            kept.add(number)
            wanted = (wanted - gives) | (names(sources[number], ast.Load) - gives)
    return [nbformat.v4.new_code_cell(sources[n], metadata={"tags": ["parameters"]} if n == 1 else {}) for n in sorted(kept)]


class Lab:
    """A JupyterLab of its own, and a page of a browser in it."""

    def __init__(self, root, page, address, token):
        self.root, self.page, self.address, self.token = root, page, address, token

    def busy(self):
        """Whether a cell runs or waits."""
        return self.page.locator(".jp-InputPrompt:has-text('*')").count() > 0

    def wait(self, until, timeout=SLOW / 1000):
        end = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < end, "nothing happened in the browser"
            self.page.wait_for_timeout(250)  # the browser goes on meanwhile

    def start(self, number, opened=False):
        """Opens a chapter and begins to run all of its cells, as the menu does."""
        if not opened:
            self.page.goto(f"{self.address}lab/tree/{NOTEBOOKS[number - 1]}.ipynb?reset&token={self.token}")
            self.page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=SLOW)
            self.page.get_by_text("| Idle").wait_for(timeout=SLOW)
        for name in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.wait(self.busy, 30)

    def errors(self, number):
        """Waits for the last cell, and gives the errors of all as they are saved from the browser."""
        self.wait(lambda: not self.busy())
        path = self.root / f"{NOTEBOOKS[number - 1]}.ipynb"
        before = path.stat().st_mtime_ns
        self.page.get_by_role("button", name="Save and create checkpoint").click()
        self.wait(lambda: path.stat().st_mtime_ns != before and path.read_text().rstrip().endswith("}"), 30)
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        found = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
        assert found or all(cell.execution_count for cell in cells)
        return found

    def explorer(self):
        """The last explorer on the page, scrolled to."""
        shown = self.page.locator(".jp-OutputArea-output .widget-vbox:has(> img.widget-image)").last
        shown.wait_for(timeout=SLOW)
        shown.scroll_into_view_if_needed()
        return shown

    def run(self, number):
        """Runs a chapter to its end, and gives its last explorer."""
        self.start(number)
        assert not self.errors(number)
        return self.explorer()

    def moved(self, explorer, label, move):
        """Moves a control, waits for the picture to follow, and says whether it did."""
        before = picture(explorer)
        move(control(explorer, label))
        self.wait(lambda: picture(explorer) != before, 60)
        return picture(explorer) != before


PIXELS = """image => {
    const canvas = Object.assign(document.createElement('canvas'), {width: image.naturalWidth, height: image.naturalHeight});
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def picture(explorer):
    """The explorer's picture, as the browser shows it."""
    return explorer.locator("img.widget-image").evaluate(PIXELS)


def control(explorer, label):
    """The control with that label: a slider's handle, a choice, a button, a box to tick or to write in."""
    button = explorer.locator(f"button:text-is('{label}')")
    box = explorer.locator(f":is(.widget-hslider, .widget-dropdown, .widget-text):has(> label:text-is('{label}'))")
    tick = explorer.locator(f".widget-checkbox:has-text('{label}')")
    return button.or_(box.locator(".noUi-handle, select, input")).or_(tick.locator("input")).first


@pytest.fixture(scope="module")
def lab(tmp_path_factory, workbook):
    """The notebooks' copies with the tests' knobs; chapters 4 and 5 train little, and keep that in a folder of their own."""
    root = tmp_path_factory.mktemp("lab")
    for number, name in enumerate(NOTEBOOKS, 1):
        knobs = workbook | {"FIGURES": str(root / "figures")}
        if number in (4, 5):
            knobs["RUNS"] = str(root / "runs")
        if number <= 3 and (SHARED / "real_faces").is_dir():
            knobs |= {"DATASET": "wflw", "DATA_ROOT": str(SHARED / "real_faces"), "SPLIT": "test"}
        notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4)
        notebook.cells = needed(notebook.cells)
        for knob, value in knobs.items():
            notebook.cells[1].source = re.sub(rf"(?m)^{knob} = [^#]*", f"{knob} = {value!r}  ", notebook.cells[1].source)
        if number in (4, 5):
            less = f"epochs={EPOCHS}, seeds=1"
            notebook.cells[
                1
            ].source += f"\nimport dataclasses\nPROFILES[PROFILE] = dataclasses.replace(PROFILES[PROFILE], {less})"
        nbformat.write(notebook, root / f"{name}.ipynb")
    token, home = secrets.token_hex(16), tmp_path_factory.mktemp("jupyter")
    places = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    command += [f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not (running := list((home / "RUNTIME").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.1)
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(30_000)
            yield Lab(root, page, json.loads(running[0].read_text())["url"], token)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def right(handle):
    handle.press("ArrowRight")


def test_faces_are_browsed(lab):
    explorer = lab.run(1)
    assert lab.moved(explorer, "next", lambda button: button.click())
    assert lab.moved(explorer, "region", lambda choice: choice.select_option("nose"))
    assert lab.moved(explorer, "numbers", lambda box: box.check())


def test_anchors_are_moved(lab):
    explorer = lab.run(2)
    assert lab.moved(explorer, "smallest (px)", right)
    assert lab.moved(explorer, "strides", lambda choice: choice.select_option("16, 32"))


def test_features_are_seen(lab):
    explorer = lab.run(3)
    assert lab.moved(explorer, "stride 32", lambda button: button.click())
    assert lab.moved(explorer, "channel", right)


def test_training_is_watched_stopped_and_goes_on(lab):
    lab.start(4)
    view = lab.explorer()
    first = picture(view)
    lab.wait(lambda: picture(view) != first)  # the curves follow while the cell is busy
    assert lab.busy()
    control(view, "stop").click()
    errors = lab.errors(4)
    assert [error.ename for error in errors] == ["Stopped"] and "again to go on" in errors[0].evalue
    logs = {log: pd.read_csv(log) for log in (lab.root / "runs").glob("*/metrics.csv")}
    assert logs and min(map(len, logs.values())) < EPOCHS
    lab.start(4, opened=True)
    assert not lab.errors(4)
    for log, kept in logs.items():
        history = pd.read_csv(log)
        assert len(history) == EPOCHS
        pd.testing.assert_frame_equal(history[kept.columns].iloc[: len(kept)], kept)
    assert lab.moved(lab.explorer(), "score from", lambda handle: handle.press("Home"))


def test_detections_of_two_runs_and_of_an_own_photo(lab, tmp_path):
    explorer = lab.run(5)
    assert lab.moved(explorer, "photo", right)
    assert lab.moved(explorer, "truth", lambda box: box.uncheck())
    image, _ = rendered.render_face(size=200, person=4)
    cv2.imwrite(str(tmp_path / "me.png"), image[..., ::-1])

    def upload(_):
        with lab.page.expect_file_chooser() as chooser:
            explorer.locator("button:has-text('your photo')").click()
        chooser.value.set_files(tmp_path / "me.png")

    assert lab.moved(explorer, "your photo", upload)
    assert "your photo" in explorer.locator(".widget-html-content").inner_text()


@pytest.mark.parametrize(("number", "labels"), [(6, ("lids", "head pitch")), (7, ("head yaw", "gaze yaw", "gaze pitch"))])
def test_eyes_look_where_they_are_told(lab, number, labels):
    explorer = lab.run(number)
    for label in labels:
        assert lab.moved(explorer, label, right)

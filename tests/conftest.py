import matplotlib
import pytest
import torch

from retinalib.detect import load_detector
from tests.pictures import rendered_faces

matplotlib.use("Agg")  # also where there is a screen
torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine
torch.ones(1, requires_grad=True).sum().backward()  # after an export, a process's first one would forbid forked ones theirs

CHAPTERS = ("tests/test_browser.py", "tests/test_notebooks.py")  # which take longest, go first


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(CHAPTERS))


@pytest.fixture(scope="session")
def workbook(tmp_path_factory):
    """The chapters' knobs in tests: little work, and folders that the tests share, so that faces and runs are made once."""
    place = tmp_path_factory.mktemp("workbook")
    return {"PROFILE": "quick", **{knob: str(place / knob.lower()) for knob in ("DATA_ROOT", "RUNS", "FIGURES")}}


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """A few rendered faces to train and to test with."""
    return rendered_faces(tmp_path_factory, 14, seed=2, size=160)


@pytest.fixture(scope="session")
def detector():
    """The shipped network of rendered faces."""
    return load_detector("rendered98", "cpu")

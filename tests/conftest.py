import matplotlib
import pytest
import torch

matplotlib.use("Agg")  # also where there is a screen
torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine
torch.ones(1, requires_grad=True).sum().backward()  # after an export, a process's first one would forbid forked ones theirs

CHAPTERS = ("test_notebooks.py", "test_browser.py")  # take longest, and go first; the second uses the runs of the first


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of several processes, one takes all tests of a file, and one both files of the chapters."""
    items.sort(key=lambda item: CHAPTERS.index(item.path.name) if item.path.name in CHAPTERS else len(CHAPTERS))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("chapters" if item.path.name in CHAPTERS else item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def workbook(tmp_path_factory):
    """The chapters' knobs in tests: little work, and folders that the tests share, so that faces and runs are made once."""
    place = tmp_path_factory.mktemp("workbook")
    return {"PROFILE": "quick", **{knob: str(place / knob.lower()) for knob in ("DATA_ROOT", "RUNS", "FIGURES")}}

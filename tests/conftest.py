import matplotlib
import pytest
import torch

matplotlib.use("Agg")  # also where there is a screen
torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine
torch.ones(1, requires_grad=True).sum().backward()  # after an export, a process's first one would forbid forked ones theirs

LONGEST = ("[04_", "[05_", "test_browser", "test_notebooks")  # in names; they go first


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """The tests of a file share what they make, so one process runs them all; chapters have groups of their own."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: [part in item.nodeid for part in LONGEST], reverse=True)


@pytest.fixture(scope="session")
def workbook(tmp_path_factory):
    """The chapters' knobs in tests: little work, and folders that the tests share, so that faces and runs are made once."""
    place = tmp_path_factory.mktemp("workbook")
    return {"PROFILE": "quick", **{knob: str(place / knob.lower()) for knob in ("DATA_ROOT", "RUNS", "FIGURES")}}

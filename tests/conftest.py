import matplotlib
import pytest
import torch

matplotlib.use("Agg")  # also where there is a screen
torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine
torch.ones(1, requires_grad=True).sum().backward()  # after an export, a process's first one would forbid forked ones theirs

CHAPTERS = ("tests/test_browser.py", "tests/test_notebooks.py")  # they share faces and runs, and take longest


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(CHAPTERS))


def pytest_xdist_make_scheduler(config, log):
    """Each file's tests in one process, the chapters' on rendered faces in the first (xdist's groups fail with pytest 9.2)."""
    from xdist.scheduler import LoadFileScheduling

    class ByChapters(LoadFileScheduling):
        def _split_scope(self, nodeid):
            rendered = nodeid.startswith(CHAPTERS) and "real_faces" not in nodeid
            return "chapters" if rendered else super()._split_scope(nodeid)

    return ByChapters(config, log)


@pytest.fixture(scope="session")
def workbook(tmp_path_factory):
    """The chapters' knobs in tests: little work, and folders that the tests share, so that faces and runs are made once."""
    place = tmp_path_factory.mktemp("workbook")
    return {"PROFILE": "quick", **{knob: str(place / knob.lower()) for knob in ("DATA_ROOT", "RUNS", "FIGURES")}}

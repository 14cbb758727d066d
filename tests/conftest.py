import pytest
import torch

torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine


def pytest_collection_modifyitems(items):
    """The files that run chapters, which take longest, begin first."""
    items.sort(key=lambda item: "workbook" not in item.fixturenames)


@pytest.fixture(scope="session")
def workbook(tmp_path_factory):
    """The chapters' knobs in tests: little work, and folders that the tests share, so that faces and runs are made once."""
    place = tmp_path_factory.mktemp("workbook")
    return {"PROFILE": "quick", **{knob: str(place / knob.lower()) for knob in ("DATA_ROOT", "RUNS", "FIGURES")}}

# make quick      set up, run all notebooks with little work, about eight minutes: into build/quick/ and figures/synthetic-quick/
# make workbook   set up, run all notebooks on rendered faces, write figures/
# make test       set up, run the tests (the notebooks at their quick profile among them; in a browser, too, where Chromium is:
#                 apt-get install chromium, or its path as make test CHROMIUM=/path/to/chrome)
# make test-oldest  the tests but for the notebooks, in an environment of its own with the oldest versions that pyproject.toml allows
# make coverage   which lines and branches of retinalib the tests run, without the notebooks
# make lab        set up, open JupyterLab on this machine
# make lint       ruff on code and notebooks, import-linter on who imports whom
# make clean      remove what is quickly made again: environment, rendered faces, caches; trainings (data/runs) and other builds stay

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15
FAST := --ignore=tests/test_notebooks.py --ignore=tests/test_workbook.py

.PHONY: quick workbook test test-oldest coverage lab lint clean
.DELETE_ON_ERROR:

quick: $(INSTALLED)
	$(BIN)/retinalib workbook --profile quick

workbook: $(INSTALLED)
	$(BIN)/retinalib workbook

# Each process of the tests has one thread: more would wait for each other.
test test-oldest coverage: export OMP_NUM_THREADS = 1

test: $(INSTALLED)
	$(BIN)/python $(PYTEST)

test-oldest: pyproject.toml
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet uv
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-oldest/bin/python $(PYTEST) $(FAST)

coverage: $(INSTALLED)
	$(BIN)/python $(PYTEST) --cov=retinalib --cov-branch --cov-report=term-missing:skip-covered $(FAST)

lab: $(INSTALLED)
	$(BIN)/jupyter lab --ip=127.0.0.1 --notebook-dir=. notebooks/01_dataset_inspection.ipynb

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo

# The stamp is made last: an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest build/quick data/synthetic figures/synthetic-*/ .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info

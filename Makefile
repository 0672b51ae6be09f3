# make run    the whole pipeline on the embedded model and data: no GPU, no network
# make test   what CI runs: ruff, mypy --strict, pytest
# make test-slow, make clean

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test test-slow lint types clean

run: $(VENV)/installed
	$(BIN)/medbench run --models base,tuned

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Through a link of the right name: a checkout may lie in a folder whose name is no identifier.
types: $(VENV)/installed-dev
	mkdir -p $(VENV)/typed && ln -sfn "$(CURDIR)" $(VENV)/typed/medbench
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p medbench

# torch first and by itself: a CPU build that is there already satisfies everything after it.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev,watch]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

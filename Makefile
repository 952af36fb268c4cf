# Thin on purpose: every target is a line or two, and each line can be typed by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Cluster tests that one session runs beside the rest, the longest (the story) among them.
WITH_STORY = tests/demo tests/retrieval/test_trainer.py tests/test_recipes.py
BENCHMARKS = $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py))))

export OMP_NUM_THREADS ?= 1

.PHONY: setup setup-gpu demo test test-unit test-cluster test-shared test-story lint format bench clean
setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m app.training.warm
	touch $@

setup-gpu: setup
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,gpu]'
	$(BIN)/python -m pip uninstall --yes faiss-cpu
	$(BIN)/python -m pip install --force-reinstall --no-deps faiss-gpu-cu12

demo: setup
	$(BIN)/signalbox demo $(if $(SOURCE),--source '$(SOURCE)')

test: test-unit test-cluster

test-unit: setup
	$(BIN)/python -m pytest -m 'not cluster' -n 2 --dist worksteal

test-cluster: setup
	$(MAKE) --jobs=2 --output-sync=target test-shared test-story

test-shared: setup
	$(BIN)/python -m pytest -m cluster $(addprefix --ignore ,$(WITH_STORY))

test-story: setup
	$(BIN)/python -m pytest -m cluster $(WITH_STORY)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	test ! -x $(BIN)/signalbox || $(BIN)/signalbox down
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

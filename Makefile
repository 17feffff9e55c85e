# robustscope: `make demo` installs and runs the main job; `make test` installs and runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: demo test check format benchmark docs clean help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	@echo "==> making the environment in $(VENV) (several minutes the first time: torch is large)"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' && \
	touch $(READY) && echo "==> environment ready in $$(( $$(date +%s) - start )) s"

demo: $(READY)  ## evaluate two small networks on digits and write a report
	@echo "==> evaluating a standard and an adversarially trained network on scikit-learn's digits"
	@start=$$(date +%s); $(BIN)/robustscope demo --out demo && echo "==> demo done in $$(( $$(date +%s) - start )) s"

test: $(READY)  ## run the tests
	@echo "==> running the tests with $(WORKERS) workers"
	@start=$$(date +%s); $(BIN)/python -m pytest -n $(WORKERS) && echo "==> tests done in $$(( $$(date +%s) - start )) s"

check: $(READY)  ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check src
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(READY)  ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(READY)  ## compare speed with peers; see benchmarks/README.md
	$(BIN)/python benchmarks/speed.py

docs: $(READY)  ## write the method pages from the cards
	$(BIN)/python docs/generate_methods.py

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo runs .pytest_cache .ruff_cache

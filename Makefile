# `make demo` and `make test` make their environment themselves. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO_HOME ?= .demo
NASROB = NASROB_SHIPPED=off NASROB_HOME=$(CURDIR)/$(DEMO_HOME) $(BIN)/nasrob-tui
DEMO_MODELS = --arch resnet18 --arch vgg16-bn --arch darts --arch darts-random-0

.PHONY: demo test lint docs picture precomputed bench clean

# Train four small networks on real digits, attack them three ways, print the trade-off table. Again: answered from the store.
demo: $(VENV)/.installed
	$(NASROB) train $(DEMO_MODELS) --dataset digits --epochs 15 --format csv >/dev/null
	$(NASROB) eval --headless $(DEMO_MODELS) --dataset digits --attack fgsm --attack f-fgsm --attack pgd --eps 8/255 --eps 16/255 --format csv >/dev/null
	@$(NASROB) tradeoff --source measured
	@echo "Published beside measured: NASROB_HOME=$(DEMO_HOME) $(BIN)/nasrob-tui tradeoff"
	@echo "The app on the same results: NASROB_HOME=$(DEMO_HOME) $(BIN)/nasrob-tui"

# One thread a process: two test processes with two threads each on two cores are ten times slower.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy models store explorer nasrob_tui.py
	$(BIN)/lint-imports

# Reference text that is generated: docs/*.md. A test fails when they are out of date.
docs: $(VENV)/.dev
	$(BIN)/python -m tests.generate_docs

# The README's picture, drawn by the app on the results of the demo.
picture: $(VENV)/.dev demo
	$(BIN)/python -m tests.screenshot $(DEMO_HOME) p

# What comes with the package, computed again; it goes on where it was stopped.
precomputed: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m explorer.precomputing .precomputed

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/attacks.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nasrob-tui needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# torchattacks pins an old `requests`, so it comes without its dependencies (torch and scipy are here already).
$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'torchattacks==3.5.1'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_HOME) .precomputed

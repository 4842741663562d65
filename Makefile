# The only commands a newcomer needs. Each target makes .venv first if it is missing.

PYTHON_VENV := .venv/bin/python
# A process a core. Each begins with neighbouring tests, which share fixtures, and takes over tests
# of a slower one at the end.
PYTEST := $(PYTHON_VENV) -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 30
READY := .venv/.ready
TOYS := $(basename $(notdir $(wildcard configs/*/toy/*.py)))

.PHONY: help setup test test-slow test-openmmlab lint demo demo-clean bench gpu-check
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with the default stack (Python 3.10 to 3.12, a C++ compiler)

# Written last, so that an interrupted set-up goes on next time.
$(READY): requirements/stack.txt setup.py
	@tools/setup/make_venv.sh
	@touch $@

test: lint  ## Lint, types and tests (all but the slow ones)
	$(PYTEST) -m 'not slow'

test-slow: $(READY)  ## The tests that take minutes
	$(PYTEST) -m slow

test-openmmlab:  ## The tests on OpenMMLab's original distributions, in .venv-openmmlab
	@tools/test_openmmlab_stack.sh

lint: $(READY)  ## Ruff and mypy
	$(PYTHON_VENV) -m ruff check .
	$(PYTHON_VENV) -m mypy

demo: $(READY)  ## Train teacher, student and AKD student on drawn data; write a report
	$(PYTHON_VENV) tools/demo.py

demo-clean:  ## Remove the drawn data, the runs of the toy configs and the report
	rm -rf work_dirs/demo data/shapes $(addprefix work_dirs/,$(TOYS))

bench: $(READY)  ## Time our training step beside MMRazor's; update docs/benchmark.md
	$(PYTHON_VENV) tools/benchmark_speed.py --out docs/benchmark --report docs/benchmark.md

gpu-check: $(READY)  ## Prove on a machine with a GPU what no other can; update docs/gpu.md
	$(PYTHON_VENV) tools/gpu_check.py --out docs/gpu --report docs/gpu.md

# make install | run | check | test | faults | bench | bench-gpu
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Where pip finds no CPU build of torch by itself, name an index that has one in ARCH_SEARCH_TORCH_INDEX.
TORCH_INDEX := $(if $(ARCH_SEARCH_TORCH_INDEX),--extra-index-url "$(ARCH_SEARCH_TORCH_INDEX)")
PIP := "$(BIN)/python" -m pip install --quiet --disable-pip-version-check
SOURCES := arch_search kernels slurm cognition_db hydra_conf

.PHONY: install install-dev run check test test-offline test-long faults bench bench-gpu clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py
	@echo "making $(VENV) (about 1 GB)"
	@test -x "$(BIN)/python" || $(PYTHON) -m venv "$(VENV)"
	@$(PIP) $(TORCH_INDEX) "$(TORCH)"
	@$(PIP) -e .
	@touch "$@"

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) -e ".[dev]"
	@touch "$@"

# A whole campaign with a real model on this machine: at most 25 minutes the first time on two cores, 18 after that.
run: install
	@"$(BIN)/arch-search" prefetch llm=vllm
	@"$(BIN)/arch-search" run campaign=demo

# What a commit must pass; about a minute.
check: install-dev
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n 2 -m "not slow and not vllm and not slurm and not gpu and not long"

# Everything: real Slurm, real vLLM. Names what it had to skip.
test: install-dev
	@tests/run_all.sh

# The unit tests where there is no network but loopback, as `make test` runs them; fewer: make test-offline ONLY=tests/agents
test-offline: install-dev
	@OMP_NUM_THREADS=1 tests/offline.sh "$(BIN)/python" -m pytest -q -n 2 --dist loadgroup -m "not vllm and not slurm and not gpu and not long and not online" $(ONLY)

# What takes several minutes each: servers that are killed, hang and reach their time limit on a real Slurm.
test-long: install-dev
	@bash tests/slurm_cluster/install.sh
	@OMP_NUM_THREADS=1 PATH="$$PATH:/usr/sbin:/sbin" "$(BIN)/python" -m pytest -q -m long

# The fault table on a real Slurm, half an hour on two cores; rows that held on the same sources are not tried again.
# One row: make faults ROW=kill-tasks
faults: install-dev
	@bash tests/slurm_cluster/install.sh
	-@"$(BIN)/arch-search" prefetch llm.model=smollm2-135m-instruct
	@OMP_NUM_THREADS=1 PATH="$$PATH:/usr/sbin:/sbin" "$(BIN)/python" -m tests.slurm_cluster.faults $(ROW)

bench: install-dev
	@for file in $(filter-out %/bench_gpu.py,$(wildcard tests/benchmarks/bench_$(or $(NAME),*).py)); do OMP_NUM_THREADS=1 "$(BIN)/python" "$$file" || exit 1; done

# Kernels and training on the GPU of this machine, at most ten minutes; needs no install where PYTHON has torch and triton,
# as: make bench-gpu PYTHON=python3. One row: make bench-gpu ROW=delta_rule
bench-gpu:
	@"$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON))" tests/benchmarks/bench_gpu.py $(ROW)

clean:
	rm -rf "$(VENV)" build dist *.egg-info

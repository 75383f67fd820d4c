# make quickstart   the whole road on real weights and real photos; ends with a page to open
# make bovw         photos as visual words, a language model fine-tuned to read them; ends with a page
# make lint         format, lint, types, and the direction of imports: no test of behaviour
# make test         make lint, then the tests (those that compare with PyTorch skip where it is missing)
# make test-parity  installs CPU PyTorch and runs the comparisons with it
# make fuzz         damaged files for every reader, 100,000 each (READERS='gguf csv' INPUTS=1000: fewer); half an hour
# make fuzz-guided  the same, guided by the branches that are reached (atheris, Linux; READERS='gguf csv' SECONDS=60)
# make test-processes  several processes as one job: wants the machine for itself
# make test-tpu     brings the TPU compiler (no TPU needed) and compiles for one; SELECT='-k four_chips': one quick test
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
INSTALLED := $(VENV)/.installed
PARITY := $(VENV)/.installed-parity
TPU_COMPILER := .venv-tpu
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: quickstart bovw lint test test-parity fuzz fuzz-guided test-processes test-tpu tpu-compiler clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	@touch $@

# lpips' own code needs torchvision, which the comparison does not: it reads the published heads from the package.
$(PARITY): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,parity]'
	$(BIN)/python -m pip install --quiet --no-deps lpips==0.1.4
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/python -m launch.environment $(BIN)/python -m v2l_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR)
	@echo "Open $(WORKDIR)/report.html"

bovw: $(INSTALLED)
	$(BIN)/python -m launch.environment $(BIN)/python -m v2l_jax.main --config=configs/bovw/quickstart.py --workdir=runs/bovw
	@echo "Open runs/bovw/report.html"

lint: $(INSTALLED)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_links.py

test: lint
	TEST_DEVICES=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not (processes or mesh or real)" tests
	TEST_DEVICES=1 TEST_OPTIMISED=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "real and not mesh" tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "mesh and not processes" tests

test-parity: $(PARITY)
	TEST_OPTIMISED=3 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m parity tests

fuzz: $(PARITY)
	$(BIN)/python -W ignore -m tests.fuzz $(READERS) --inputs $(or $(INPUTS),100000)

fuzz-guided: $(PARITY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,parity,fuzz]'
	set -e; for reader in $(or $(READERS),$$($(BIN)/python -W ignore -c 'from tests.fuzz.readers import READERS; print(*READERS)')); do $(BIN)/python -W ignore -m tests.fuzz.guided $$reader --seconds $(or $(SECONDS),60); done

test-processes: $(INSTALLED)
	$(BIN)/python -m pytest -q -m processes tests

# In a folder of its own: where libtpu is installed, every JAX program looks for a TPU first.
tpu-compiler: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TPU_COMPILER) --constraint constraints.txt libtpu

test-tpu: tpu-compiler
	PYTHONPATH=$(TPU_COMPILER) $(BIN)/python -m pytest -q tests/launch/test_aot.py $(SELECT)

clean:
	rm -rf $(VENV) $(TPU_COMPILER) runs

# Three commands for a newcomer: `make demo`, `make search` and `make test`. `make help` lists the rest.
# Settings: RECIPE (a path, or a shipped recipe's name), ARGS (passed on to attar), PYTHON, VENV, PIP_ARGS (passed on to pip), MINUTES (of make gpu), BENCHMARK (of make bench).

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= demo
ARGS ?=
PIP_ARGS ?=
MINUTES ?=
BENCHMARK ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
STAGES := teach label distill export optimize build validate package
# A file a kind of installation, older than what decides it when that has changed.
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.NOTPARALLEL:
.PHONY: help demo search setup check format docs messages test test-all test-nightly coverage gpu bench run plan fetch report clean $(STAGES)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z$$][^:]*:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo "make STAGE        a recipe up to one stage: $(STAGES)"

demo: $(READY)  ## the main job: Fashion-MNIST from a teacher to a bundle
	@$(BIN)/attar fetch demo
	@$(BIN)/attar run demo $(ARGS)

search: $(READY)  ## the fastest student among the variants of RECIPE that keeps its promises
	@$(BIN)/attar fetch $(RECIPE)
	@$(BIN)/attar search $(RECIPE) $(ARGS)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[train,examples,search]'
	@touch $@

setup: $(READY_DEV)  ## what developing needs, in .venv

$(READY_DEV): $(READY)
	$(PIP) --editable '.[train,examples,search,dev]'
	@touch $@

# The theme warns of MkDocs 2, which constraints.txt keeps away.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: $(READY_DEV)  ## style, types, the direction of imports, and the site with its links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) --quiet

docs: $(READY_DEV)  ## the documentation, in site/: open site/index.html
	$(MKDOCS)

format: $(READY_DEV)  ## sort imports, mend what can be mended, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: $(READY_DEV)  ## the descriptors of gRPC's messages, from serving/grpc/*.proto
	$(BIN)/python -m grpc_tools.protoc -I serving/grpc --descriptor_set_out=serving/grpc/messages.binpb open_inference.proto health.proto

# The tests' networks are tiny: one thread a process is fastest, and leaves a second core to a second process.
# Files go to the processes in the order of tests/conftest.py, the longest first.
# Bytecode is kept, whatever the machine's setting: hundreds of processes begin, and each would compile attar anew.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY_DEV)  ## all tests but the slow ones and those that need a package index
	$(TEST) -m "not slow and not network and not nightly"

test-all: test  ## every test but the nightly ones, and every property with as many examples as hypothesis draws
	$(TEST) -m "(slow or network) and not nightly"
	$(TEST) -m "hypothesis and not (slow or network or nightly)" --hypothesis-profile all

# One process: a training of a real size uses all cores.
test-nightly: $(READY_DEV)  ## whole recipes that train for tens of minutes
	$(BIN)/python -m pytest -m nightly

coverage: $(READY_DEV)  ## branch coverage of the fast tests, child processes counted
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not network and not nightly"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Without .venv, as on a machine that reaches no package index, with what its own Python has.
gpu:  ## the most that this machine can do on an NVIDIA GPU (in MINUTES), and a summary of it and the rest
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(MINUTES)

bench: $(READY_DEV)  ## one of benchmarks/: BENCHMARK=calibration ARGS=...; without, their list
	@$(if $(BENCHMARK),$(BIN)/python -m benchmarks.$(BENCHMARK) $(ARGS),grep -l __main__ benchmarks/[!_]*.py | xargs -n 1 basename -s .py)

$(STAGES) run plan fetch: $(READY)
	@$(BIN)/attar $@ $(RECIPE) $(ARGS)

report: $(READY)  ## the report of RECIPE, in report/
	@$(BIN)/attar report $(RECIPE) -o report $(ARGS)

clean:  ## what was built, cached and reported; the store (.attar) and .venv stay
	rm -rf build dist report site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -path ./.attar -prune -o -name __pycache__ -type d -exec rm -rf {} +

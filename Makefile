# These commands do everything, set-up included, on a machine with Python 3.11 or newer:
#
#     make run     train BDPO with 5 seeds on the embedded dataset, evaluate and report
#     make test    ruff, mypy and pytest
#     make docs    the documentation site, in build/site
#
# BUILD.md has the same without make, and the installations for CUDA and TPU.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TOOLS := $(VENV)/developers-installed
RECORDER := $(VENV)/mujoco-4.0.0
EXTRAS :=
PYTEST := $(BIN)/python -m pytest -n 2 --dist=loadscope --no-loadscope-reorder
QUICK := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
EXACT := tests/training tests/parallel $(patsubst %,tests/runs/test_%.py,kill memory going_on) \
    tests/cli/test_cluster.py tests/cli/test_run.py tests/environments/test_mjx.py tests/methods/test_bdpo_probes.py \
    tests/nets/test_spectral_residual.py

# With this variable, which some containers set, each of the hundred processes that tests start would
# compile the modules of JAX to bytecode again, six seconds each.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: run test lint docs clean
.DELETE_ON_ERROR:

run: $(STAMP)
	$(BIN)/python -m experiments.run --algo=bdpo --seeds=5

# Most of a test's time is XLA's compiling, which takes a third of it with these flags. What must be
# equal to the bit as users get it (EXACT) is compiled as usual. A file stays in one process, since its
# tests share runs; long files come first (tests/conftest.py). The golden files are in both parts: in
# the second if their bits are compared on this processor, in the first otherwise.
test: lint $(RECORDER)
	GOLDEN= XLA_FLAGS="$(QUICK)" $(PYTEST) $(EXACT:%=--ignore=%)
	GOLDEN=bits XLA_FLAGS= $(PYTEST) $(EXACT) tests/runs/test_golden.py
	PYTHONPATH=$(RECORDER) $(BIN)/python -m pytest tests/data/test_parity.py

lint: $(TOOLS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Tables agree with docs/results/, and every warning is an error. Notes on MkDocs' future are muted.
docs: $(TOOLS)
	$(BIN)/python docs/tables.py --check
	$(BIN)/python -m doctest docs/docstrings.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The package with $(EXTRAS). Python compiles what it imports; compiling all that is installed would take
# a minute more.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "jaxrl_prefs needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -m venv $(VENV) || { \
    echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.$(EXTRAS)'
endef

# Made anew when what is to be installed changes; a second run starts at once.
$(STAMP): pyproject.toml constraints.txt
	$(install)
	touch $@

# With what only developers need; at once, since each installation builds the package first.
$(TOOLS): EXTRAS := [dev,docs]
$(TOOLS): pyproject.toml constraints.txt
	$(install)
	touch $(STAMP) $@

# The MuJoCo that recorded the seeded datasets, beside the pinned one, which rounds otherwise: whole
# episodes of a tumbling robot are only compared with the physics that made them.
$(RECORDER): $(TOOLS)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps \
	    --target $@.part mujoco==4.0.0 mujoco-core==4.0.0
	rm -rf $@ && mv $@.part $@ && touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

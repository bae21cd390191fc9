# One word runs the gate, one word opens the house. `make help` lists the words.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup dev test test-systemd test-image test-fresh check format bench preview install uninstall clean

help: ## list these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the virtual environment with everything pinned in constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	@echo "Installing into $(VENV), this once: up to a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,test]'
	@touch $@

dev: $(READY) ## open the house: own Valkey and Postgres, sample people, mails written to a folder
	@$(BIN)/flowstate-daemon dev $(ARGS)

test: $(READY) ## all tests, on real stores (with node and npm also against npm bull); one process: ARGS='-n 0'
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-systemd: $(READY) ## install into a really booted systemd and try everything there; needs root on Debian
	$(BIN)/pytest -m deploy -v tests/deploy/test_booted*.py $(ARGS)

test-image: $(READY) ## build the image, run it locked down, bring the compose file up; needs root on Debian
	$(BIN)/pytest -m deploy -v tests/deploy/test_image.py tests/deploy/test_compose.py $(ARGS)

test-fresh: ## the words dev and test on a bare Debian, as an ordinary user, from what is committed; needs root on Debian
	tests/deploy/fresh.sh 'make dev ARGS=--once && make test'

check: $(READY) ## the gate: format, lint, types, imports, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto --maxprocesses 4 tests/unit tests/test_house.py

format: $(READY) ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure beside npm bull in the same run
	$(BIN)/python -m tests.bench $(ARGS)

preview: $(READY) ## every mail in every language with sample data, to look at: artefacts/preview/index.html
	@$(BIN)/flowstate-daemon mail preview --folder artefacts/preview $(ARGS)

install: ## install as a service on this host, or into DESTDIR=folder; also PREFIX, APPDIR, PYTHON
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' APPDIR='$(APPDIR)' PYTHON='$(PYTHON)' systemd/install.sh install

uninstall: ## take the service away again; configuration and data stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' APPDIR='$(APPDIR)' systemd/install.sh uninstall

clean: ## remove what the other words made
	rm -rf $(VENV) build dist artefacts .dev .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/compat/node_modules *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

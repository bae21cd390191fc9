# `make check` before a commit, `make dev` to try it. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
LOCK   := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --only-binary :all: --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup dev test test-unit test-flavours test-systemd test-image test-clean-install lint typecheck check format docs \
	bench bench-quick bench-report capacity chaos soak preview pictures screenshots lock \
	install uninstall release clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## create the virtual environment, with the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required: make PYTHON=python3.12 …"; exit 1; }
	@echo "Installing into $(VENV), only this once: up to a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,otel,test]'
	@touch $@

dev: $(STAMP) ## start the daemon with its own Valkey and Postgres, sample users, and a folder for the emails
	@$(BIN)/flowstate-daemon dev $(ARGS)

test: $(STAMP) ## all tests, on real stores (with node and npm also against npm bull); in one process: ARGS='-n 0'
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-unit: $(STAMP) ## unit tests and conventions: no stores, no network
	$(BIN)/pytest -q -n auto --maxprocesses 4 tests/unit tests/test_conventions.py $(ARGS)

test-flavours: $(STAMP) ## the queue's tests on every kind of Redis available here: cluster, TLS, restricted users, older servers
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --flavours=all tests/integration/queue $(ARGS)

test-systemd: $(STAMP) ## install into a booted systemd and test the service there; needs root on Debian
	$(BIN)/pytest -m deploy -v tests/deploy/test_booted*.py $(ARGS)

test-image: $(STAMP) ## build the image, run it locked down, and start the compose file; needs root on Debian
	$(BIN)/pytest -m deploy -v tests/deploy/test_image.py tests/deploy/test_compose.py $(ARGS)

test-clean-install: ## make dev and make test on a minimal Debian, as an ordinary user, from the last commit; needs root on Debian
	tests/deploy/clean_install.sh 'make dev ARGS=--once && make test'

lint: $(STAMP) ## format, lint and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

typecheck: $(STAMP) ## strict types
	$(BIN)/mypy

check: lint typecheck test-unit ## format, lint, types, import rules, unit tests

format: $(STAMP) ## format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## run every command in the documentation, and check its names and links
	$(BIN)/pytest -q tests/docs $(ARGS)

bench: $(STAMP) ## compare with nine other queue libraries, and write docs/performance.md: an hour and a half
	$(BIN)/python -m tests.bench $(ARGS)

bench-quick: $(STAMP) ## the same with fewer peers and small sizes, in three minutes: artefacts/bench-quick
	$(BIN)/python -m tests.bench --plan quick --fresh $(ARGS)

bench-report: $(STAMP) ## write docs/performance.md again from the results of the last benchmark
	$(BIN)/python -m tests.bench --report $(ARGS)

chaos: $(STAMP) ## random faults from a seed against real daemons, for 10 minutes: ARGS='--minutes 60 --seed 7', ARGS=--quick
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(STAMP) ## a steady rate for 30 minutes: memory, descriptors and tasks must stay flat: ARGS='--minutes 1'
	$(BIN)/python -m tests.chaos.soak $(ARGS)

capacity: $(STAMP) ## measure what an email costs, and write the tables of docs/capacity.md
	$(BIN)/python -m tests.bench.capacity $(ARGS)

preview: $(STAMP) ## every email in every language with sample data: artefacts/preview/index.html
	@$(BIN)/flowstate-daemon mail preview --output artefacts/preview $(ARGS)

pictures: $(STAMP) ## emails and preference pages as pictures, by Chromium: artefacts/emails, artefacts/pages
	$(BIN)/pytest -q -n 0 tests/integration/mail/test_mails_in_chromium.py tests/integration/web/test_preferences_in_chromium.py $(ARGS)
screenshots: $(STAMP) ## pictures of every operator's page in both themes: artefacts/screenshots; needs Chromium
	@$(BIN)/python -m tests.docs.screenshots --output artefacts/screenshots $(ARGS)

lock: ## write requirements*.txt, the hashes of what production installs, from constraints.txt
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: uv
	build/lock/bin/uv pip compile $(LOCK) pyproject.toml --output-file requirements.txt
	build/lock/bin/uv pip compile $(LOCK) pyproject.toml --extra otel --output-file requirements-otel.txt
	echo hatchling | build/lock/bin/uv pip compile $(LOCK) - --output-file requirements-build.txt

install: ## install as a service on this host, or into DESTDIR=folder; also PREFIX, APPDIR, PYTHON, EXTRA=otel
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' APPDIR='$(APPDIR)' PYTHON='$(PYTHON)' EXTRA='$(EXTRA)' systemd/install.sh install

uninstall: ## remove the service; configuration and data stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' APPDIR='$(APPDIR)' systemd/install.sh uninstall

release: ## build wheel and sdist, test both in a new environment, and print the next steps
	rm -rf dist build/release
	$(PYTHON) -m venv build/release/builder
	build/release/builder/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-build.txt
	build/release/builder/bin/hatchling build -d dist
	@set -e; for file in dist/*.whl dist/*.tar.gz; do \
	  echo "Testing $$file"; \
	  rm -rf build/release/test; \
	  $(PYTHON) -m venv build/release/test; \
	  build/release/test/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$file"; \
	  (cd build/release && test/bin/flowstate-daemon --version && test/bin/flowstate-daemon --help >/dev/null); \
	done
	@version=$$(build/release/test/bin/python -c 'import flowstate_daemon; print(flowstate_daemon.__version__)'); \
	grep -q "^## \[$$version\]" CHANGELOG.md || { echo "CHANGELOG.md has no section for $$version"; exit 1; }; \
	printf '%s\n' "Built and tested version $$version:" dist/*; \
	printf '%s\n' "Next, when make check and make test have passed:" \
	  "  git tag -a v$$version -m 'flowstate-daemon $$version' && git push origin v$$version" \
	  "  upload the two files to the release page of the repository" \
	  "  docker build -t flowstate-daemon:$$version . and push it to your registry"

clean: ## remove the virtual environment and all build products
	rm -rf $(VENV) build dist artefacts .dev .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/compat/node_modules tests/bench/node_modules .cache/bench *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

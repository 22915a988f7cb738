# make run     start the relay on port 2525, state in .state/
# make test    run the tests
# make check   everything that CI checks: format, lint, types, layers, tests, coverage
# make torture the long trials of docs/reliability.md; an hour or two
# make fuzz    an hour of the trials that make up their input (FUZZ_SECONDS=600 for less)
# make bench   compare its speed with Postfix's (bench/README.md); needs root
# make image   build the container image "relay", with docker, podman or buildah
# make image-test  build it, and try it (docs/container.md); needs root where there is no docker
# make release build sdist, wheel and image of a version that CI has passed (docs/developing.md)
# make lock    write down the dependencies that the image gets (ARGS=--upgrade for newer ones)
# make audit   compare the dependencies of the image with the known vulnerabilities; needs the network
# make clean   remove what these targets made, the relay's state apart

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CONFIG ?= .state/relay.toml
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' relay/__init__.py)
ENGINE = $(shell for engine in docker podman buildah; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)
# --universal: for all machines, with the hashes of all their files.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes --custom-compile-command "make lock"

.PHONY: run test lint check torture fuzz bench image image-test release lock audit clean

run: $(STAMP) $(CONFIG)
	@address=$$(hostname -I 2>/dev/null | cut -d' ' -f1); \
	echo "Point mail programs at port 2525 of this machine, $${address:-localhost}."
	@echo "Settings: $(CONFIG). Stop with Ctrl-C."
	@exec $(BIN)/relay serve --config $(CONFIG)

.state/relay.toml:
	@mkdir -p .state
	@printf '%s\n' '[[listen]]' 'address = "0.0.0.0:2525"' '' '[queue]' 'path = "queue.db"' > $@

test: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95
	$(BIN)/coverage report --fail-under=100 --include='relay/mail/*,relay/config/*'

torture: $(STAMP)
	TORTURE=whole TORTURE_FIGURES=torture.jsonl $(BIN)/pytest tests/torture $(ARGS)

fuzz: $(STAMP)
	TORTURE=whole TORTURE_FIGURES=torture.jsonl $(BIN)/pytest tests/torture/test_fuzz.py $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench compare $(ARGS)

image:
	@test -n "$(ENGINE)" || { echo "no docker, podman or buildah answers here" >&2; exit 1; }
	BUILDAH_FORMAT=docker $(ENGINE) build --build-arg VERSION=$(VERSION) --tag relay --tag relay:$(VERSION) .

image-test: $(STAMP)
	$(BIN)/pytest tests/image/trial.py $(ARGS)

release: $(STAMP)
	@grep --max-count=1 '^## ' CHANGELOG.md | grep --quiet --fixed-strings --word-regexp '$(VERSION)' || \
	{ echo "CHANGELOG.md does not begin with version $(VERSION), which relay/__init__.py names" >&2; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "commit or take away first what git status shows" >&2; exit 1; }
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(MAKE) image

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) pyproject.toml --output-file requirements/relay.txt $(ARGS)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	$(LOCK) - --output-file requirements/build.txt $(ARGS)

audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --timeout 5 --requirement requirements/relay.txt --requirement requirements/build.txt

clean:
	rm -rf .venv .image build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip 25.1 is the first to know dependency groups.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

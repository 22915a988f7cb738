# make run     start the relay on port 2525, state in .state/
# make test    run the tests
# make check   everything that CI checks: format, lint, types, layers, tests, coverage
# make torture the long trials of docs/reliability.md; an hour or two
# make fuzz    an hour of the trials that make up their input (FUZZ_SECONDS=600 for less)
# make bench   compare its speed with Postfix's (bench/README.md); needs root
# make clean   remove what these targets made, the relay's state apart

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CONFIG ?= .state/relay.toml

.PHONY: run test lint check torture fuzz bench clean

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

clean:
	rm -rf .venv build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip 25.1 is the first to know dependency groups.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

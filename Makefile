# Two commands for a new user: `make demo` and `make test`; both do all set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test proof lint clean

demo: $(VENV)/demo.ready
	$(BIN)/danlu run recipes/demo.toml

test: $(VENV)/test.ready
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

proof: $(VENV)/test.ready
	$(BIN)/python -m pytest -n 2 -m "not gpu" --durations=10

lint: $(VENV)/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info

# torch is named on the same command as everything that asks for it, so that the pinned build is the one installed.
$(VENV)/demo.ready: pyproject.toml constraints.txt
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[web,eval]'
	touch $@

$(VENV)/test.ready: $(VENV)/demo.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[test]'
	touch $@

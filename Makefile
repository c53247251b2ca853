# Two commands do all the set-up: `make demo` and `make test`. The environment lives in .venv and is reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECK := $(VENV)/check

.PHONY: demo test lint types clean

demo: $(READY)
	$(BIN)/foldrank compress examples/specs-5m --method slm:keep=0.75 --method dipsvd:keep=0.8 -o build/demo --force

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .

# Type checkers cannot follow the editable finder, so the package is installed normally, without its dependencies,
# beside the environment that has them.
types: $(READY)
	rm -rf $(CHECK) build/lib build/bdist.*
	$(BIN)/pip install -q --no-deps --target $(CHECK) .
	cd $(CHECK) && MYPYPATH=$(abspath $(CHECK)) $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) -p foldrank

$(READY): setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install -q -c constraints.txt -e '.[torch,report,cpu,dev]'
	touch $(READY)

clean:
	rm -rf build $(VENV)

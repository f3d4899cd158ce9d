# Everything runs inside .venv, which `make setup` builds from pyproject.toml and the pins of constraints.txt. The extra `kronecker` comes
# without its dependencies: it asks for torchvision, which it never imports, and which breaks transformers where torch is of another build.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CHECKED := tests/test_architecture.py tests/studies/test_docs.py  # by `make check`, so that `make test` leaves them out

.PHONY: setup demo demo-service test test-slow check docs reproduce clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setup: building $(VENV) with $(PYTHON); it downloads torch and other libraries, which takes several minutes"
	$(PYTHON) -m venv $(VENV)
	@echo "setup 1/2: installing expunge with its pinned dependencies, the tests and the checks"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[test,check,docs]"
	@echo "setup 2/2: installing kronfluence, without its own dependencies"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps kronfluence einconv einops opt_einsum
	@touch $@
	@echo "setup: done; try $(BIN)/expunge demo images --quick"

demo: setup
	$(BIN)/expunge demo

demo-service: setup
	$(BIN)/python examples/request.py

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(addprefix --ignore ,$(CHECKED))

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(CHECKED)

docs: setup
	$(BIN)/python -m studies.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site

reproduce: setup
	$(BIN)/python -m studies.reproduce $(or $(NAME),--all) $(if $(DRAWS),--draws $(DRAWS))

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache runs site

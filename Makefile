# Two commands for everyone: `make demo` and `make test`. Each starts from a fresh virtual environment.
PYTHON ?= python3
JOBS ?= 2
EXTRAS ?= torch,test
PIP_ARGS ?=
PYTEST_ARGS ?=
MODEL ?= models/digits_mobilenet.onnx

.DEFAULT_GOAL := help
NEWEST ?= .venv-dev/bin/python
FLOOR_TESTS ?= tests/test_floors.py tests/test_api.py tests/model tests/rewrite/passes tests/rewrite/analysis \
	tests/rewrite/test_edge_cases.py tests/referee tests/runtime tests/records tests/commands/test_fold_many.py

.PHONY: help demo test floors site quick check lint format docs bench bench-left models zoo-table fuzz torture batch-torture cluster-demo clean
comma := ,

# $(call fresh,FOLDER,WHAT): a new virtual environment with WHAT installed. What an earlier build left
# in build/ would end up in the wheel, so it goes first.
define fresh
	rm -rf $(1) build biasopt.egg-info
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt $(2)
	rm -rf build biasopt.egg-info
endef

help:
	@echo "make demo     install into a fresh environment, fold a model from models/, print the report"
	@echo "make test     install into a fresh environment, run all tests"
	@echo "make floors   install the lowest versions that are allowed, run the quick tests there"
	@echo "make check    what CI runs: lint, test, then 500 mutated models"
	@echo "make lint     format, ruff, mypy --strict, import contracts, generated docs"
	@echo "make format   reformat and apply ruff's safe fixes"
	@echo "make docs     write the generated parts of the documents"
	@echo "make site     the documentation as pages, built strictly"
	@echo "make bench    compare with other tools, model by model; goes on where it was (ARGS='--max-time 600 --repeat 5')"
	@echo "make cluster-demo  fold models/ on a Dask cluster of two workers on this machine"
	@echo "make bench-left  batch norms and nodes that each tool leaves, net by net (ARGS='*.onnx --kept left.json')"
	@echo "make zoo-table  write docs/fold.md's tables of where biases go, and what goes by each pass"
	@echo "make fuzz     mutated models through the commands (ARGS='10000 1 --ops inspect,fold,prove')"
	@echo "make torture  folds killed, interrupted and at once (ARGS='200 0 --mb 300')"
	@echo "make batch-torture  a batch with models that crash, hang and eat memory, killed again and again (ARGS='200 10')"
	@echo "make models   train and export the small models of models/ again"
	@echo "make clean    remove environments, caches and build products"

demo:
	$(call fresh,.venv-demo,.)
	.venv-demo/bin/biasopt fold $(MODEL) -o .venv-demo/folded.onnx

test:
	$(call fresh,.venv-test,".[$(EXTRAS)]")
	.venv-test/bin/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

check: lint test
	.venv-dev/bin/python -m tests.hostile.mutate 500 0 --ops prove,certify

quick: .venv-dev/done
	.venv-dev/bin/python -m pytest -n $(JOBS) --dist loadgroup -q -m "not slow and not serial" $(PYTEST_ARGS)

# These two environments are kept until what they were made from changes.
.venv-dev/done: pyproject.toml constraints.txt
	$(call fresh,.venv-dev,-e ".[torch$(comma)test$(comma)dev]")
	touch $@

.venv-bench/done: pyproject.toml constraints.txt
	$(call fresh,.venv-bench,-e ".[torch$(comma)bench]")
	touch $@

# The lowest versions that pyproject.toml allows, without torch; folded files are those of the newest, byte for byte.
floors:
	rm -rf .venv-floors build biasopt.egg-info
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r floors.txt "setuptools>=77"
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps .
	rm -rf build biasopt.egg-info
	BIASOPT_NEWEST=$(NEWEST) .venv-floors/bin/python -m pytest -n $(JOBS) -q -m "not slow and not serial" $(FLOOR_TESTS)

lint: .venv-dev/done
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports --no-cache
	.venv-dev/bin/python -m converter.report.docs --check

format: .venv-dev/done
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

docs: .venv-dev/done
	.venv-dev/bin/python -m converter.report.docs

# The documentation as pages in .site; a broken link or anchor is an error.
site: .venv-docs/done
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

.venv-docs/done: pyproject.toml constraints.txt
	rm -rf .venv-docs
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt mkdocs-material
	touch $@

bench: .venv-bench/done
	.venv-bench/bin/python -m tests.benchmarks.peers $(ARGS)

fuzz: .venv-dev/done
	.venv-dev/bin/python -m tests.hostile.mutate $(or $(ARGS),10000 0)

cluster-demo: .venv-dev/done
	.venv-dev/bin/python -m tests.benchmarks.batch_scale --demo $(ARGS)

torture: .venv-dev/done
	.venv-dev/bin/python -m tests.hostile.torture $(ARGS)

batch-torture: .venv-dev/done
	.venv-dev/bin/python -m tests.batch.torture $(ARGS)

bench-left: .venv-bench/done
	.venv-bench/bin/python -m tests.benchmarks.left $(ARGS)

zoo-table: .venv-bench/done
	.venv-bench/bin/python -m tests.benchmarks.zoo_table

models: .venv-dev/done
	.venv-dev/bin/python models/recipes.py

clean:
	rm -rf .venv-* .site build dist biasopt.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

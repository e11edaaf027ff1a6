# Each target makes its own virtual environment first; nothing needs to be set up by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo demo-lan test test-all lint links bench chaos soak fuzz docs clean

demo: $(READY)
	$(BIN)/peerfabric demo

# On three hosts, which are network namespaces: needs root.
demo-lan: $(READY)
	$(BIN)/python -m tests.net.demo_lan

# By three processes: half of the time most tests wait for others. Each has ports and folders of its own.
test: $(READY)
	$(BIN)/pytest -n 3 --dist worksteal

# On every Python that is found, each in a virtual environment of its own.
test-all:
	.ci/test-all

lint: $(READY) links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard examples/*.py)

# A quarter of an hour a round; `make bench CASES="messages topic" ROUNDS=5` runs some, `benchmarks/run.py --list` names them.
bench: $(READY)
	$(BIN)/python -m pip install --quiet "persist-queue>=1.0"
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/run.py $(CASES)
	$(BIN)/python benchmarks/spool.py
	$(BIN)/python benchmarks/spool.py --backlog

# The reference of all public names, from their docstrings: build/reference/index.html.
docs: $(READY)
	PYTHONWARNINGS=ignore $(BIN)/pdoc $(REFERENCE) --docformat google --no-show-source --output-directory build/reference

chaos: $(READY)
	$(BIN)/pytest -m "long or not long" -o addopts="--import-mode=importlib -ra -s" tests/chaos

soak: $(READY)
	$(BIN)/pytest -m long -o addopts="--import-mode=importlib -ra -s" tests

# Coverage-guided; `make fuzz INPUTS=100000` is a short one.
INPUTS ?= 5000000
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet "atheris>=2.3"
	$(BIN)/python tests/fuzz/run.py --inputs $(INPUTS)

# Of an editable installation setuptools warns in a large box: not of anything here.
$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

# Packages of nodes that are installed under names of their own.
BESIDE := $(addprefix nodes/,admin gateway metrics otel testing)

REFERENCE := peerfabric !peerfabric.nodes !peerfabric.discovery $(patsubst nodes/%,peerfabric.%,$(BESIDE))

# mypy follows a folder of links, since the import package does not lie in one folder of that name.
links:
	rm -rf .links
	mkdir -p .links/peerfabric
	ln -s $(patsubst %,../../%,$(wildcard fabric/*) nodes discovery examples/indexer $(BESIDE)) .links/peerfabric/

clean:
	rm -rf $(VENV) .venv-* .links build dist *.egg-info

# Every habit of the project is a target here. `make serve` and `make test` need Python 3.11 to 3.13 and nothing else.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && echo $$p && break; done)
HOST ?= 127.0.0.1
PORT ?= 8000
SERVE := .venv
DEV := .venv-dev
KSERVE := .venv-kserve
OPTIMUM := .venv-optimum
PIP := -m pip install --quiet --disable-pip-version-check
# The CPU build of PyTorch, where the index has one; the plain name pulls gigabytes of CUDA.
TORCH ?= torch==2.13.0

.PHONY: serve test test-system check format compress bench bench-peers ladder soak docker clean

serve: $(SERVE)/.installed
	@BERTPRESS_DEFAULT_MODEL=$${BERTPRESS_DEFAULT_MODEL:-sentiment-quality} \
	  $(SERVE)/bin/bertpress-serve --host $(HOST) --port $(PORT)

# Tests compute with one thread each; a file is one worker's, since its tests may share what takes long to make.
WORKERS ?= 2
test: $(DEV)/.installed
	$(DEV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-system: $(DEV)/.installed $(KSERVE)/.installed $(OPTIMUM)/.installed
	$(DEV)/bin/python -m pytest -m system

check: $(DEV)/.installed
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy app compression loadtests tests

format: $(DEV)/.installed
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

# make compress TEACHER=my-classifier DATA=reviews.csv
compress: $(DEV)/.installed
	@test -n "$(TEACHER)$(BACKBONE)" -a -n "$(DATA)" || \
	  { echo "usage: make compress TEACHER=DIR_OR_HUB_ID DATA=PATH [OUTPUT=models] (BACKBONE= where there is no teacher yet)"; exit 2; }
	$(DEV)/bin/bertpress compress $(if $(TEACHER),--teacher $(TEACHER),--backbone $(BACKBONE)) \
	  --data $(DATA) --output $(or $(OUTPUT),models) $(COMPRESS_FLAGS)

# Real reviews where BERTPRESS_DATA names the folder that holds imdb/, else texts of like lengths.
bench: $(DEV)/.installed
	$(DEV)/bin/bertpress benchmark $(if $(BERTPRESS_DATA),--data $(BERTPRESS_DATA)/imdb)
	$(DEV)/bin/python -m loadtests.http_benchmark

# Other servers beside ours, each in an environment of its own; the page gets the tables. About half an hour.
PEERS ?= .peers
bench-peers: $(DEV)/.installed
	$(DEV)/bin/python -m loadtests.peers.install --into $(PEERS) --torch $(TORCH)
	$(DEV)/bin/python -m loadtests.peers --environments $(PEERS) --json $(PEERS)/figures.json --write docs/peers.md

# What each step of the compression saves: make ladder TEACHER=my-classifier DATA=imdb/
ladder: $(DEV)/.installed
	@test -n "$(TEACHER)" -a -n "$(DATA)" || { echo "usage: make ladder TEACHER=DIR DATA=PATH"; exit 2; }
	$(DEV)/bin/bertpress benchmark ladder --teacher $(TEACHER) --data $(DATA)

# Memory over 200,000 requests of random lengths, on the build that the default install runs; fails if it grows
# by more than 5 %. About a quarter of an hour.
soak: $(DEV)/.installed
	$(DEV)/bin/python -m loadtests.soak --build $(or $(BUILD),onnx-int8-reduced) --png docs/memory.png

IMAGE ?= bertpress
docker:
	docker build -f docker/Dockerfile -t $(IMAGE) .

clean:
	rm -rf $(SERVE) $(DEV) $(KSERVE) $(OPTIMUM) .mypy_cache .pytest_cache .ruff_cache

$(SERVE)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "bertpress needs Python 3.11, 3.12 or 3.13 (python3 is $$(python3 --version 2>&1)); set PYTHON="; exit 1; }
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python $(PIP) --editable .
	@touch $@

$(DEV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "bertpress needs Python 3.11, 3.12 or 3.13 (python3 is $$(python3 --version 2>&1)); set PYTHON="; exit 1; }
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python $(PIP) $(TORCH)
	$(DEV)/bin/python $(PIP) --editable '.[compress,dev,grpc,loadtest,openvino,otel,search,tracking]'
	@touch $@

# KServe's client brings a server with pins of its own; the tests that use it run it from here.
$(KSERVE)/.installed:
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/python $(PIP) 'kserve>=0.15'
	@touch $@

# Optimum needs an older transformers than the one the suite is developed on; the suite is tested on both.
$(OPTIMUM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/python $(PIP) $(TORCH)
	$(OPTIMUM)/bin/python $(PIP) --editable '.[compress,optimum]' 'pytest>=8.3'
	@touch $@

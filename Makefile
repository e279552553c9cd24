# make app    starts the program on http://127.0.0.1:7860
# make test   runs the quick tests
PYTHON ?= python3
VENV ?= .venv
APP_ARGS ?=
# Build of torch that a new environment gets: cpu, cu126, ... as PyTorch names them; that of PyPI if empty.
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/$(TORCH)
# The tests run in so many processes at a time; each takes about a gigabyte.
TEST_PROCESSES ?= 2
TEST_ARGS ?=

# The tests of one file share what is made once for them, so they stay in one process.
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_TRAIN := $(VENV)/.installed-train

.PHONY: app test test-most test-slow test-all test-elsewhere lint format mini mini-data mini-clips mini-vae mini-base mini-large mini-stage2 mini-sharpen mini-export segmenter \
	examples gpu

app: $(INSTALLED)
	$(BIN)/python app.py $(APP_ARGS)

# What catches most in a minute or two: reference numbers, pipeline, layers, one way through the page.
test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest @tests/quick.txt $(PARALLEL) $(TEST_ARGS)

test-most: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(TEST_ARGS)

test-slow: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m slow $(PARALLEL) $(TEST_ARGS)

test-all: test-most test-slow

# The quick tests as on other machines: other instruction sets, threads, languages, homes, orders, a busy machine.
# TEST_ARGS=--all: all but the slow tests.
test-elsewhere: $(INSTALLED_DEV)
	$(BIN)/python -m tests.elsewhere $(PARALLEL) $(TEST_ARGS)

lint: $(INSTALLED_DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(INSTALLED_DEV)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.10 to 3.13 is needed; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps make a second start install nothing.
$(INSTALLED): requirements.txt | $(BIN)/python
ifneq ($(TORCH),)
	$(BIN)/python -m pip install --retries 1 --timeout 10 --index-url $(TORCH_INDEX) \
		$$(sed -n 's/^\(torch[a-z]*[^ ]*\).*/\1/p' requirements.txt) || \
		echo "$(TORCH_INDEX) cannot be reached; going on with the build of torch that pip finds by itself."
else ifeq ($(shell uname -s),Linux)
	@nvidia-smi -L >/dev/null 2>&1 || $(BIN)/python -c 'import torch' 2>/dev/null || \
		echo "No NVIDIA GPU was found: 'make $(MAKECMDGOALS) TORCH=cpu' would install some 4 GB less."
endif
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt requirements-train.txt requirements-lora.txt $(INSTALLED)
	$(BIN)/python -m pip install -r requirements-dev.txt
	@touch $@

$(INSTALLED_TRAIN): requirements-train.txt $(INSTALLED)
	$(BIN)/python -m pip install -r requirements-train.txt
	@touch $@

# The recipe of the mini checkpoint: days on a CPU, some minutes on a large GPU; the same command again
# goes on where it was interrupted. The pictures are learned at 128x128 first (mini-base), then at 256x256
# (mini-large). The clips of the last stage are a data set of their own, so that most pictures are of
# different people.
DATA ?= data/dancers
CLIPS ?= data/clips
RUNS ?= runs/mini
LARGE ?= $(RUNS)/large
MINI ?= assets/mini
IDENTITIES ?= 8000
CLIP_IDENTITIES ?= 1000
WORKERS ?= 2
THREADS ?= 2
VAE_ARGS ?=
BASE_ARGS ?=
LARGE_ARGS ?= --steps 20000 --learning-rate 5e-4 --decay-steps 6000 --own-steps 1 --drop-reference 0
STAGE2_ARGS ?= --own-steps 1 --drop-reference 0
SHARPEN_ARGS ?=
RENDER := -m training.dancers --size 256 --framing close --workers $(WORKERS)
FROM_BASE := --runs $(LARGE) --pipeline $(RUNS)/base/pipeline

mini: mini-export

mini-data: $(INSTALLED_TRAIN)
	$(BIN)/python $(RENDER) --out $(DATA) --identities $(IDENTITIES) --stills 8 --frames 4 --fps 3

mini-clips: $(INSTALLED_TRAIN)
	$(BIN)/python $(RENDER) --out $(CLIPS) --identities $(CLIP_IDENTITIES) --stills 1 --frames 16 --fps 12.5

mini-vae: mini-data
	$(BIN)/python -m training vae --data $(DATA) --runs $(RUNS) --threads $(THREADS) $(VAE_ARGS)

mini-base: mini-vae
	$(BIN)/python -m training base --data $(DATA) --runs $(RUNS) --threads $(THREADS) $(BASE_ARGS)

mini-large: mini-base
	$(BIN)/python -m training base --data $(DATA) $(FROM_BASE) --size 256 --threads $(THREADS) $(LARGE_ARGS)

mini-stage2: mini-large mini-clips
	$(BIN)/python -m training stage2 --data $(CLIPS) $(FROM_BASE) --threads $(THREADS) $(STAGE2_ARGS)

mini-sharpen: mini-stage2
	$(BIN)/python -m training sharpen --data $(CLIPS) $(FROM_BASE) --threads $(THREADS) $(SHARPEN_ARGS)

mini-export: mini-sharpen
	$(BIN)/python -m training export $(FROM_BASE) --out $(MINI)

# What this program does on the GPU at hand, in eight minutes; in small on a CPU.
GPU_OUT ?= runs/gpu

gpu: $(INSTALLED_DEV)
	$(BIN)/python -m benchmarks.gpu --out $(GPU_OUT)

# The network that finds body parts, for the benchmarks.
segmenter: mini-data
	$(BIN)/python -m training segmenter --data $(DATA) --runs $(RUNS) --out assets/segmenter --threads $(THREADS)

# The photos and clips that the page offers.
examples: $(INSTALLED_TRAIN)
	$(BIN)/python -m training.dancers.examples

# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo tiny eval-smoke test test-slow test-oldest test-extras test-lmms test-e2e lint format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.installed  ## wallaroo-tiny answers, draws and edits; pictures and a contact sheet land in demo-output/
	$(BIN)/python examples/demo.py --output demo-output

tiny: $(VENV)/.installed  ## train wallaroo-tiny from nothing into runs/tiny; goes on where it was stopped
	$(BIN)/python examples/train_tiny.py --output runs/tiny

eval-smoke: $(VENV)/.installed  ## every benchmark of `wallaroo eval` on wallaroo-tiny and a few prompts, into runs/eval-smoke
	$(BIN)/python examples/eval_smoke.py --output runs/eval-smoke

test: $(VENV)/.installed $(VENV)/.quantize  ## the whole test suite on the pinned, newest transformers
	PYTHONPATH=$(VENV)/quantize $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/.installed  ## tests of a minute or more each: training in a notebook, runs on several processes
	$(BIN)/python -m pytest -m slow

test-oldest: .venv-oldest/.installed .venv-oldest/.quantize  ## the same on the oldest transformers that is supported
	PYTHONPATH=.venv-oldest/quantize .venv-oldest/bin/python -m pytest -n $(WORKERS)

test-extras: .venv-extras/.installed  ## what needs DeepSpeed or bitsandbytes: ZeRO-2 and ZeRO-3 on two processes, QLoRA
	.venv-extras/bin/python -m pytest tests/training/test_launching.py tests/training/test_lora.py

test-lmms: .venv-lmms/.installed  ## the plug-in within the real lmms-eval, in .venv-lmms
	.venv-lmms/bin/python -m pytest tests/evaluation/test_lmms.py tests/evaluation/test_lmms_plugin.py \
	    tests/evaluation/test_answering.py

test-e2e: .venv-e2e/.installed  ## the web page in a headless Chromium (Debian: chromium, chromium-driver), the server under load
	.venv-e2e/bin/python -m pytest tests/e2e tests/apps/test_web.py tests/cli/test_web_command.py

lint: $(VENV)/.installed  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and by itself: `pip install torch==...` takes a CPU build where one is at hand.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-oldest/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt torch
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

.venv-extras/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-extras/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' bitsandbytes deepspeed
	touch $@

# lmms-eval's own list of dependencies is some hundred packages, for models that this does not run.
.venv-lmms/.installed: pyproject.toml constraints.txt constraints-lmms.txt
	$(PYTHON) -m venv .venv-lmms
	.venv-lmms/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-lmms/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	.venv-lmms/bin/python -m pip install --quiet --no-deps --requirement constraints-lmms.txt
	touch $@

.venv-e2e/.installed: pyproject.toml constraints-e2e.txt
	$(PYTHON) -m venv .venv-e2e
	.venv-e2e/bin/python -m pip install --quiet --constraint constraints-e2e.txt torch
	.venv-e2e/bin/python -m pip install --quiet --constraint constraints-e2e.txt --editable '.[app,e2e]'
	touch $@

# torchao is for the tests of quantised weights alone, and in a folder of its own: where transformers finds it, every
# command prints warnings of its libraries for GPUs.
$(VENV)/.quantize .venv-oldest/.quantize: %/.quantize: %/.installed
	$*/bin/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $*/quantize torchao
	touch $@

clean:  ## remove the environments and what the demo wrote
	rm -rf .venv .venv-oldest .venv-extras demo-output converted-output .pytest_cache .mypy_cache .ruff_cache .venv-lmms .venv-e2e

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test lint bench model demo train evaluate
PY := .venv/bin/python
STATE ?= $(HOME)/.cache/sam-droplet/training
DATA_SETS = $(if $(DATA),--data $(DATA))

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 12

setup:  ## virtual environment with what the service needs
	@scripts/setup.sh requirements_server.txt

setup-dev:
	@scripts/setup.sh requirements_dev.txt

run: setup  ## serve on port 9487 with the shipped checkpoint
	@$(PY) -m service.startup
	@exec $(PY) -m gunicorn -c gunicorn.conf.py

test: lint  ## everything that must hold
	@$(PY) -m pytest

lint: setup-dev  ## format, lint, types
	@$(PY) -m ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary
	@echo "lint: ruff format, ruff check, mypy strict: clean"

bench: setup-dev  ## time the engine against the plain decoder
	@$(PY) -m benchmarks.engine

model: setup  ## fetch the official MobileSAM checkpoint
	@$(PY) -m sam_engine.download

train: setup  ## train the droplet checkpoint, or go on with it; DATA=folder of data sets, STATE=folder
	@$(PY) -m training.train --state $(STATE) $(DATA_SETS)

evaluate: setup  ## measure the shipped checkpoint; DATA=folder of data sets
	@$(PY) -m training.evaluate $(DATA_SETS) --split test --baselines

demo: setup  ## segment the drawn sample with the running service
	@$(PY) -m examples.demo

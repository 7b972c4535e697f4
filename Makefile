# Two commands: `make demo` (install, train, evaluate) and `make check` (install, test).
# Everything is installed into .venv from the versions in requirements.lock.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo check check-slow check-slurm setup setup-dev setup-slurm lint test clean

demo: setup
	snakemake --cores $(CORES) train_ct evaluate_ct

check: setup-dev lint test

setup: .venv/stamp-workflow
setup-dev: .venv/stamp-dev

.venv/stamp-%: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.lock -e ".[$(if $(filter dev,$*),workflow$(,)dev,workflow)]"
	touch $@
	$(if $(filter dev,$*),touch .venv/stamp-workflow)

, := ,

lint: setup-dev
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check workflow
	snakemake --lint

test: setup-dev
	pytest -m "not slow" -n 2

# DVC and Snakemake must agree, a kill in every stage: minutes. Slurm's scenes are skipped with a reason where Slurm is absent.
check-slow: setup-dev
	pytest -m slow -n 2 --dist loadfile -rs --durations=20

# A real Slurm on this machine (Debian or Ubuntu, as root): the demo is killed, hung, drained and preempted, and has to arrive.
check-slurm: setup-slurm
	pytest -m slurm tests/slurm -rs --durations=20

setup-slurm: setup-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.lock -e ".[workflow,cluster,dev]"
	dpkg -s slurmctld slurmd slurm-client munge >/dev/null 2>&1 || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; }

clean:
	rm -rf results logs state restricted .snakemake

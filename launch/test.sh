#!/usr/bin/env bash
# The same environment as quickstart.sh, then every check: ruff, mypy, the tests, a file of them on each core, with the
# coverage of what runs in their own processes (the trainer, which they start, is not in it). Arguments go to pytest.
# The files come in their order, in which those of training, the long ones, are early, and short ones end the work.
set -euo pipefail
SETUP_EXTRAS="[dev]"
source "$(dirname "$0")/setup.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ruff check .
ruff format --check .
mypy
genesis-ds build cpu_adam
python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --cov genesis_ds --cov-report "term:skip-covered" "$@"

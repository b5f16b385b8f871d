#!/usr/bin/env bash
# The same environment as quickstart.sh, then every check: ruff, mypy, the tests. Arguments go to pytest (-m slow).
set -euo pipefail
SETUP_EXTRAS="[dev]"
source "$(dirname "$0")/setup.sh"

ruff check .
ruff format --check .
mypy
genesis-ds build cpu_adam
python -m pytest "$@"

#!/usr/bin/env bash
# Every crash: 40 kills of launchers, ranks and whole jobs, over ZeRO-2 and ZeRO-3 offload on 1 and 2 ranks. 10 to
# 20 minutes on 2 cores. Prints a Markdown table. Needs the environment of launch/test.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec python tests/faults/killing.py

#!/usr/bin/env bash
# On a machine with CUDA, Python and torch but without a network: unpack the wheels that it lacks, and measure.
#
#     tests/gpu/offline.sh --minutes 8 --out tests/gpu/results/CARD.json
#
# rehearse.sh has put them into .whl/, which travels with the tree. The project itself is not installed. OFFLINE_HOME
# (default ~/genesis_ds_offline) is where they and DeepSpeed's compiled operations go.
set -euo pipefail
cd "$(dirname "$0")/../.."

home="${OFFLINE_HOME:-$HOME/genesis_ds_offline}"
wheels=".whl/$(python3 -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
[ -e "$wheels/complete" ] || { echo "error: no wheels in $wheels; make them with tests/gpu/rehearse.sh where there is a network" >&2; exit 2; }

# Not again where they are there: DeepSpeed's operations would be compiled anew, as their sources would be newer.
if ! cmp --silent "$wheels/complete" "$home/site/complete"; then
    rm -rf "$home/site"
    python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$home/site" "$wheels"/*.whl
    cp "$wheels/complete" "$home/site/complete"
fi
export PYTHONPATH="$home/site:$PWD" PATH="$home/site/bin:$PATH" PYTHONUNBUFFERED=1
export TORCH_EXTENSIONS_DIR="$home/torch_extensions" MAX_JOBS="$(nproc)"
# DeepSpeed's own list of architectures is too old for nvcc 13.
if capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)" && [ -n "$capability" ]; then
    export TORCH_CUDA_ARCH_LIST="$capability"
fi
ulimit -l unlimited 2>/dev/null || echo "note: no more than $(ulimit -l) KiB of memory can be locked here"
exec python3 tests/gpu/measure.py "$@"

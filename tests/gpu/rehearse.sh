#!/usr/bin/env bash
# Rehearse on a CPU what offline.sh does on a GPU machine without a network: make the wheels that such a machine lacks,
# unpack them as it will, beside nothing but what it has, and run the toy form of measure.py; without its part of NVMe, as
# that machine has no libaio.
#
#     tests/gpu/rehearse.sh [TORCH_VERSION ...]        (default: 2.11.0, that machine's, and the one of constraints.txt)
#
# PYTHON     the interpreter (default python3.12, that machine's); the wheels in .whl/ are for it
# REHEARSAL  where virtual environments and results are kept (default ~/.cache/genesis_ds/rehearsal)
#
# The first time it downloads about 3 GB for each torch, most of it CUDA's libraries, and takes 8 GB of disk for each.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gets torch's CPU builds instead.
set -euo pipefail
cd "$(dirname "$0")/../.."

python="$(command -v "${PYTHON:-python3.12}")" || { echo "error: there is no ${PYTHON:-python3.12} here; name another interpreter: PYTHON=python3.11 $0" >&2; exit 2; }
rehearsal="${REHEARSAL:-$HOME/.cache/genesis_ds/rehearsal}"
tag="$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
wheels=".whl/$tag"
ours="$(sed -n 's/^torch==//p' constraints.txt)"
# What that machine has and the project needs, torch apart; versions are those of constraints.txt.
there="setuptools wheel pip ninja numpy scipy scikit-learn threadpoolctl safetensors sentencepiece tensorboard matplotlib psutil
    pyyaml protobuf packaging einops msgpack py-cpuinfo tqdm"
# What it lacks besides deepspeed; pip finds what these need.
lacking="hjson pydantic jsonargparse[signatures]"
unset PYTHONPATH VIRTUAL_ENV PYTHONHOME

# Make a virtual environment with this torch, where there is none yet.
environment() {
    local folder="$1" version="$2" stamp="$1/$(echo "$2 $there" | cat - constraints.txt | sha256sum | cut -c1-16)"
    [ ! -e "$stamp" ] || return 0
    echo "== torch $version: installing what that machine has into $folder"
    "$python" -m venv --clear "$folder"
    grep -v '^torch==' constraints.txt >"$folder/constraints.txt"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c "$folder/constraints.txt" $there "torch==$version"
    touch "$stamp"
}

# Make the wheels that machine lacks, where they are not there yet.
make_wheels() {
    local pip=("$1/bin/python" -m pip --quiet --disable-pip-version-check) made_of
    made_of="$(echo "$lacking" | cat - constraints.txt | sha256sum)"
    [ "$(cat "$wheels/complete" 2>/dev/null)" != "$made_of" ] || return 0
    echo "== wheels for $tag into $wheels"
    rm -rf "$wheels"
    mkdir -p "$wheels"
    DS_BUILD_OPS=0 "${pip[@]}" wheel --no-deps --no-build-isolation --no-binary deepspeed -c "$1/constraints.txt" -w "$wheels" deepspeed
    "${pip[@]}" download --only-binary=:all: -c "$1/constraints.txt" -d "$wheels" $lacking
    echo "$made_of" >"$wheels/complete"
}

[ $# -gt 0 ] || set -- 2.11.0 "$ours"
for version in "$@"; do
    folder="$rehearsal/$tag-torch-$version"
    SECONDS=0
    environment "$folder" "$version"
    make_wheels "$folder"
    echo "== torch $version under $("$python" --version): made ready in $SECONDS s; the toy protocol follows"
    SECONDS=0
    PATH="$folder/bin:$PATH" OFFLINE_HOME="$folder/offline" \
        tests/gpu/offline.sh --toy --without nvme --minutes 40 --work "$folder/work" --out "$folder/toy.json"
    "$folder/bin/python" - "$folder/toy.json" <<'CHECK'
import json, sys
content = json.load(open(sys.argv[1]))
failed = [row["name"] for rows in content["parts"].values() for row in rows if not row["ok"]]
failed += [out["name"] for out in content["left_out"]]
sys.exit(f"error: {', '.join(failed)} failed or left out, see {sys.argv[1]}" if failed else 0)
CHECK
    echo "== torch $version: rehearsed in $SECONDS s, $folder/toy.json"
done

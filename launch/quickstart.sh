#!/usr/bin/env bash
# From a fresh machine to a trained model: environment, corpus, training, samples. A second run skips what is done.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

if [ ! -e corpora/bible/manifest.json ]; then
    genesis-ds corpus fetch --languages en,es,ko --output corpora/bible
fi
deepspeed -q launch/train.py --ds_config ds_configs/zero3_offload.json

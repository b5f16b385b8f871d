"""Train a run from a checkout, as `genesis-ds train`: `deepspeed launch/train.py [--config launch/runs/NAME.yaml]`.

`python` and `torchrun` start it as well. Any field of the run can be overridden (`--model.n_layers 80`); --help lists
them.
"""

import sys
from pathlib import Path

# A checkout works without being installed; the deepspeed launcher puts this file's folder on the path, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genesis_ds.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

"""Train a run: `deepspeed launch/train.py --ds_config ds_configs/zero3_offload.json [--config launch/runs/NAME.yaml]`.

`python` and `torchrun` start it as well. Any field of the run can be overridden (`--model.n_layers 80`); --help lists
them.
"""

import sys
from pathlib import Path

# A checkout works without being installed; the deepspeed launcher puts this file's folder on the path, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    from genesis_ds.training.session import main
except KeyboardInterrupt:  # imports take seconds; from then on the run's own handlers say what happens
    print("interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

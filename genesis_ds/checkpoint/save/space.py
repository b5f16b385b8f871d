"""Whether the disk takes what a run will keep."""

import shutil
from pathlib import Path

from genesis_ds.checkpoint.save.directory import checkpoints_in
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config.durations import count_log_spaced
from genesis_ds.config.resolve import SizedRun
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.optimizers.load import state_tensors

BYTES_PER_PARAMETER = 8
"""Of a full checkpoint at its largest, ZeRO-2 in fp32: weights and master weights (measured; 4 under ZeRO-3)."""
BYTES_PER_STATE_TENSOR = 4
"""Of a parameter, in each tensor of the optimizer's state; AdamW keeps two."""
BYTES_PER_WEIGHT = 4
"""Of a file of weights alone, at its largest (fp32)."""


def require_space(run: SizedRun, directory: Path, policy: KeepPolicy, *, done: int, n_steps: int) -> None:
    """Raise UserError when the disk cannot take the checkpoints that a run will keep, and the one being written.

    directory: of its checkpoints. done, n_steps: its steps so far, and in all; 0 where these are not known, and then
    neither milestones nor files of weights are counted. Named checkpoints may never be; they are not counted.
    """
    keep, last = policy.config, n_steps - 1
    n_milestones = max(0, last // policy.milestones - done // policy.milestones) if policy.milestones else 0
    n_weights = count_log_spaced(done + 1, last, keep.weights_per_decade)
    n_weights += bool(keep.weights_per_decade) and done < n_steps  # one at the end
    missing = keep.keep_last + 1 - len(checkpoints_in(directory))
    n_checkpoints = max(1, missing) + n_milestones + (keep.keep_best if keep.best_by else 0)
    n_tensors = len(state_tensors(run.config)) + run.config.optimizer.n_averages
    per_parameter = n_checkpoints * (BYTES_PER_PARAMETER + n_tensors * BYTES_PER_STATE_TENSOR)
    n_parameters = sum(parameter.numel for parameter in run_parameters(run))
    needed = n_parameters * (per_parameter + n_weights * BYTES_PER_WEIGHT)
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"checkpoint.keep_last: {n_checkpoints} more checkpoints of this model"
            + (f" and {n_weights} files of its weights" if n_weights else "")
            + f" need {needed / 2**30:.1f} GiB in {directory}, {free / 2**30:.1f} GiB are free; lower "
            + ("keep_last, milestones or weights_per_decade" if n_weights or n_milestones else "keep_last")
            + " or choose another --output_dir"
        )

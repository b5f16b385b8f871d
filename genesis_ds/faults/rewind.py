"""The end of too many steps in a row without an update: the run stops, or goes back and leaves their data out."""

import gc
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from genesis_ds.checkpoint.load.resume import read_training_state
from genesis_ds.checkpoint.save.directory import checkpoints_in, drop_newer
from genesis_ds.checkpoint.save.manager import CheckpointManager, SaveFailed
from genesis_ds.checkpoint.save.manifest import inspect
from genesis_ds.engine.distributed import from_main, raise_on_all_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.faults.diagnosis import Diagnosis


class NumericalFault(Exception):
    """The end of a run that had too many steps in a row without an update; the text is for the user."""


@dataclass(frozen=True)
class FailedRun:
    """A run that failed, as a rewind needs it. Its engine is gone already."""

    directory: Path
    checkpoints: CheckpointManager
    resumed_from: Path | None
    """The checkpoint that the run was resumed from; None where it began anew."""
    rewinds: int
    """How often the run has gone back so far."""
    max_rewinds: int


def rewind(failed: FailedRun, diagnosis: Diagnosis, ranks: Ranks) -> Path:
    """Return the checkpoint to go on from, which is then the newest. Every rank calls it.

    What was found, and what is done, is added to diagnosis.json; checkpoints made since go, as a crash would otherwise
    be followed by a start from one of them. Raises NumericalFault where there is no checkpoint or no rewind left.
    """
    gc.collect()  # engines, hooks and parameters point at each other
    torch.cuda.empty_cache()  # does nothing without CUDA
    try:
        failed.checkpoints.finish()
    except SaveFailed as error:
        if ranks.is_main:
            print(f"warning: {error}", file=sys.stderr, flush=True)
    path = failed.directory / "diagnosis.json"
    checkpoint = from_main(raise_on_all_ranks(lambda: _last_good(failed, diagnosis) if ranks.is_main else None))
    goes_back = checkpoint is not None and failed.rewinds < failed.max_rewinds
    action = f"rewound to {checkpoint}" if goes_back else "stopped"
    raise_on_all_ranks(lambda: diagnosis.write(path, action) if ranks.is_main else None)
    if checkpoint is None or not goes_back:
        raise NumericalFault("\n".join([*diagnosis.report(checkpoint, failed.rewinds), f"  more in {path}"]))
    if ranks.is_main:
        print(f"rewound    to {checkpoint}, without {diagnosis.samples()}; {diagnosis.found()}", flush=True)
    raise_on_all_ranks(lambda: drop_newer(failed.checkpoints.directory, checkpoint) if ranks.is_main else None)
    return checkpoint


def _last_good(failed: FailedRun, diagnosis: Diagnosis) -> Path | None:
    """Return the newest good checkpoint since the last rewind after which a step had an update; else `resumed_from`."""
    for kept in checkpoints_in(failed.checkpoints.directory):
        if kept.step < diagnosis.last_update and not inspect(kept.path).problems:
            saved = read_training_state(kept.path, failed.checkpoints.identity)
            if saved.state["rewinds"] == failed.rewinds:
                return kept.path
    return failed.resumed_from

"""What a run does when too many steps in a row had no update: it stops, or goes back and leaves their data out."""

import dataclasses
import gc
import sys
from pathlib import Path

import torch

from genesis_ds.checkpoint.save.directory import checkpoints_in, drop_newer
from genesis_ds.checkpoint.save.manager import SaveFailed
from genesis_ds.checkpoint.save.manifest import inspect
from genesis_ds.config import RunConfig
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import Ranks, from_main, raise_on_all_ranks
from genesis_ds.faults.diagnosis import Diagnosis
from genesis_ds.training.open_run import OpenRun, open_run


class NumericalFault(Exception):
    """A run has stopped because too many steps in a row had no update; the text is for the user."""


def rewind(
    failed: OpenRun, diagnosis: Diagnosis, run: RunConfig, resolved: Resolved, ranks: Ranks, trust: bool
) -> OpenRun:
    """The failed run, opened again at its last good checkpoint to train without the data of the steps in question.

    Its engine is gone already. run: as the command line gave it. Raises NumericalFault where there is no checkpoint or
    no rewind left. What was found, and what is done, is added to diagnosis.json; checkpoints made since go, as a crash
    would otherwise be followed by a start from one of them. Every rank calls it.
    """
    gc.collect()  # engines, hooks and parameters point at each other
    torch.cuda.empty_cache()  # does nothing without CUDA
    try:
        failed.checkpoints.finish()
    except SaveFailed as error:
        if ranks.is_main:
            print(f"warning: {error}", file=sys.stderr, flush=True)
    state, path = failed.state, failed.directory.path / "diagnosis.json"
    checkpoint = from_main(raise_on_all_ranks(lambda: last_good(failed, diagnosis) if ranks.is_main else None))
    goes_back = checkpoint is not None and state.rewinds < run.faults.max_rewinds
    action = f"rewound to {checkpoint}" if goes_back else "stopped"
    raise_on_all_ranks(lambda: diagnosis.write(path, action) if ranks.is_main else None)
    if checkpoint is None or not goes_back:
        raise NumericalFault("\n".join([*diagnosis.report(checkpoint, state.rewinds), f"  more in {path}"]))
    if ranks.is_main:
        print(f"rewound    to {checkpoint}, without {diagnosis.samples()}; {diagnosis.found()}", flush=True)
    raise_on_all_ranks(lambda: drop_newer(failed.checkpoints.directory, checkpoint) if ranks.is_main else None)
    again = open_run(dataclasses.replace(run, resume=str(checkpoint)), resolved, ranks, trust)
    again.state.left_out = [*state.left_out, *diagnosis.skipped]
    again.state.rewinds, again.state.hours = state.rewinds + 1, state.hours
    return again


def last_good(failed: OpenRun, diagnosis: Diagnosis) -> Path | None:
    """The newest checkpoint since the last rewind from which a later step had an update; or what was gone on from."""
    for kept in checkpoints_in(failed.checkpoints.directory):
        if kept.step < diagnosis.last_update and not inspect(kept.path).problems:
            state, _ = failed.checkpoints.read_state(kept.path)
            if state["rewinds"] == failed.state.rewinds:
                return kept.path
    return failed.found.path if failed.found else None

"""Whether a run that was resumed is, bit for bit, the run that nobody stopped: what measure.py compares.

On a GPU two runs of the same program may differ, since atomic additions come in any order. So the same checkpoint is
resumed twice: where the two differ, that is the difference from run to run, and a resume can be held to no more.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from genesis_ds import metrics
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.save.directory import LATEST, checkpoints_in
from genesis_ds.segments import read_records


def rewound(run: Path, step: int, to: Path) -> None:
    """Copy a run's directory as it was when the checkpoint of that step was its newest."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to)
    for kept in checkpoints_in(to / "checkpoints"):
        if kept.step > step:
            shutil.rmtree(kept.path)
    (to / "checkpoints" / LATEST).write_text(f"step-{step:08d}\n")


def losses(run: Path, after: int) -> dict[int, float]:
    """Step -> training loss, of the steps after one of them."""
    records = read_records(run / "metrics.jsonl")
    return {row["global_step"]: row[metrics.TRAIN_LOSS] for row in records if row["global_step"] > after}


def weights(run: Path) -> dict[str, np.ndarray]:
    """The whole fp32 weights of the run's newest checkpoint, by name."""
    files = ZeroFiles(checkpoints_in(run / "checkpoints")[0].path)
    return {name: files.weight(name).detach().numpy() for name in files.names}


def hash_of(arrays: dict[str, np.ndarray]) -> str:
    """Of all names and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def difference(one: Path, other: Path, after: int) -> dict[str, Any]:
    """Of two runs' losses after a step and of their final weights; all of it 0 where they are equal bit for bit."""
    ours, theirs = losses(one, after), losses(other, after)
    differing = [step for step in ours if ours[step] != theirs.get(step)]
    mine, others = weights(one), weights(other)
    return {
        "equal": not differing and ours.keys() == theirs.keys() and hash_of(mine) == hash_of(others),
        "steps_compared": len(ours.keys() & theirs.keys()),
        "steps_that_differ": len(differing),
        "first_that_differs": min(differing, default=None),
        "largest_loss_difference": max((abs(ours[s] - theirs[s]) for s in ours.keys() & theirs.keys()), default=None),
        "largest_weight_difference": max(float(np.abs(mine[name] - others[name]).max()) for name in mine),
        "weights_sha256": [hash_of(mine), hash_of(others)],
    }


def compare(whole: Path, resumed: Path, resumed_again: Path, after: int) -> dict[str, Any]:
    """The resumed run beside the whole one, the two resumed ones beside each other, and what that says."""
    of_resume, from_run_to_run = difference(whole, resumed, after), difference(resumed, resumed_again, after)
    if of_resume["equal"]:
        verdict = "resume is exact, bit for bit"
    elif from_run_to_run["equal"]:
        verdict = "RESUME IS NOT EXACT: two resumed runs are equal, and differ from the one that was not stopped"
    else:
        verdict = "this device does not repeat itself: two runs from one checkpoint differ; compare the differences"
    return {"verdict": verdict, "whole_to_resumed": of_resume, "resumed_to_resumed": from_run_to_run}

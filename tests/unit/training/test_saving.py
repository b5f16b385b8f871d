"""What the saver makes of a step, and of a checkpoint that could not be written."""

import json
import math
from types import SimpleNamespace

import pytest
from helpers.saved_runs import FilesOnly, manager_of, names

from genesis_ds.checkpoint.save.manager import SaveFailed
from genesis_ds.checkpoint.save.manifest import MANIFEST
from genesis_ds.config import CheckpointConfig, RunConfig
from genesis_ds.config.resolve import SizedRun, resolve_steps
from genesis_ds.hooks.base import StepRecord
from genesis_ds.training.saving import Saver
from genesis_ds.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_rank")


class NoRoom:
    """A state that the disk does not take."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


class Engine(FilesOnly):
    def __init__(self, ranks):
        super().__init__()
        self.ranks = ranks

    def weights(self):
        yield from ()

    def shapes(self):
        raise OSError(28, "No space left on device")


class Saving:
    """A saver of a run without a model, whose checkpoints are due at every 50 steps."""

    def __init__(self, directory, background=False, **checkpoint):
        config = RunConfig(checkpoint=CheckpointConfig(every=50, background=background, **checkpoint))
        sized = SizedRun(config, config.model, SimpleNamespace(masters="fp32"), tasks=("lm",), heads=())
        self.manager = manager_of(directory, background=background, keep_last=9)
        self.engine, self.state = Engine(self.manager.ranks), TrainingState()
        self.saver = Saver(
            resolve_steps(sized, n_steps=300, steps_per_epoch=1.0),
            engine=self.engine,
            tasks=SimpleNamespace(state_dict=dict),
            stats=SimpleNamespace(state=dict),
            hooks={},
            checkpoints=self.manager,
            state=self.state,
        )

    def step(self, step, **record):
        self.state.global_step = step
        self.saver.save(StepRecord(step, 300, **record))

    def fail(self, step, **record):
        """Take a step whose checkpoint the disk does not take; it takes the next."""
        tensors, self.engine.tensors = self.engine.tensors, NoRoom()
        self.step(step, **record)
        self.engine.tensors = tensors


def test_a_checkpoint_that_failed_in_the_background_leaves_its_name_to_the_next(tmp_path, capsys):
    run = Saving(tmp_path, background=True)
    run.fail(123, save_as="grokking_confirmed")
    run.step(150)
    run.step(300)
    assert names(run.manager) == ["latest", "step-00000150-grokking_confirmed", "step-00000300"]
    assert "NOT SAVED at step 123: " in capsys.readouterr().err


def test_what_failed_in_the_background_is_saved_when_the_run_stops_or_ends(tmp_path):
    run = Saving(tmp_path / "stops", background=True)
    run.fail(150)
    run.saver.save_before_stopping()
    assert names(run.manager) == ["latest", "step-00000150"]
    run = Saving(tmp_path / "ends", background=True)
    run.fail(123, save_as="mine")
    run.step(300)
    assert names(run.manager) == ["latest", "step-00000300-mine"]
    with pytest.raises(SaveFailed, match=r"step 300 is not saved: .*No space left"):
        run.fail(300)


def test_a_checkpoint_that_is_whole_is_not_made_again_under_its_name_because_weights_failed(tmp_path):
    run = Saving(tmp_path, weights_per_decade=1)
    run.step(100, save_as="mine")
    run.engine.shapes = dict
    for step in range(101, 106):
        run.step(step)
    assert names(run.manager) == ["latest", "step-00000100-mine", "step-00000105", "weights"]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["step-00000105.safetensors"]


def test_a_name_that_would_not_be_found_again_is_refused(tmp_path):
    run = Saving(tmp_path)
    with pytest.raises(ValueError, match=r"'at\.half' is no name of a checkpoint"):
        run.step(10, save_as="at.half")


def test_a_measured_value_that_is_not_finite_is_stored_as_none(tmp_path, capsys):
    run = Saving(tmp_path, best_by="val/loss")
    run.step(50, metrics={"val/loss": 1.5})
    run.step(100, metrics={"val/loss": math.nan})
    values = [json.loads((tmp_path / f"step-{step:08}" / MANIFEST).read_text())["value"] for step in (50, 100)]
    assert values == [1.5, None]
    assert "has been measured" not in capsys.readouterr().err

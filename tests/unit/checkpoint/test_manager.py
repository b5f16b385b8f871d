import pytest

from genesis_ds.checkpoint.manager import STATE_FILE, CheckpointManager
from genesis_ds.engine.distributed import Ranks
from genesis_ds.errors import UserError


class FilesOnly:
    """Stands for the engine where only the file handling matters."""

    def save_checkpoint(self, directory, tag, save_latest):
        assert not save_latest
        from pathlib import Path

        (Path(directory) / tag).mkdir(parents=True)


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setattr("genesis_ds.checkpoint.manager.barrier", lambda: None)
    (tmp_path / "checkpoints").mkdir()
    return CheckpointManager(tmp_path / "checkpoints", {"model.dim": 32}, keep_last=2, ranks=Ranks(0, 0, 1))


def save(manager, *steps):
    for step in steps:
        manager.save(FilesOnly(), {"global_step": step}, hooks={})


def names(manager):
    return sorted(path.name for path in manager.directory.iterdir())


def test_the_newest_are_kept_and_latest_names_the_last(manager):
    save(manager, 100, 200, 300)
    assert names(manager) == ["latest", "step-00000200", "step-00000300"]
    assert manager.find("auto").name == "step-00000300"


def test_a_checkpoint_with_a_name_outlives_the_plain_ones(manager):
    save(manager, 100)
    manager.save(FilesOnly(), {"global_step": 150}, {}, "grokking_confirmed")
    assert manager.find("auto").name == "step-00000150-grokking_confirmed"
    save(manager, 200, 300, 400)
    assert names(manager) == ["latest", "step-00000150-grokking_confirmed", "step-00000300", "step-00000400"]
    manager.save(FilesOnly(), {"global_step": 450}, {}, "grokking_confirmed")
    assert names(manager) == ["latest", "step-00000300", "step-00000400", "step-00000450-grokking_confirmed"]
    save(manager, 120)
    assert names(manager) == ["latest", "step-00000120"]


def test_saving_after_a_resume_from_an_older_step_drops_the_abandoned_branch(manager):
    save(manager, 100, 200, 300, 150)
    assert names(manager) == ["latest", "step-00000150"]
    save(manager, 160, 170)
    assert names(manager) == ["latest", "step-00000160", "step-00000170"]


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(manager):
    save(manager, 100, 100)
    assert names(manager) == ["latest", "step-00000100"]


def test_a_save_that_fails_leaves_the_older_checkpoint_in_charge(manager):
    class Failing(FilesOnly):
        def save_checkpoint(self, directory, tag, save_latest):
            super().save_checkpoint(directory, tag, save_latest)
            raise OSError(28, "No space left on device")

    save(manager, 100)
    with pytest.raises(OSError, match="No space"):
        manager.save(Failing(), {"global_step": 200}, hooks={})
    assert manager.find("auto").name == "step-00000100"
    save(manager, 200)
    assert manager.find("auto").name == "step-00000200"


def test_a_damaged_or_foreign_state_is_an_error_that_names_the_file(manager):
    save(manager, 100)
    checkpoint = manager.find("auto")
    other = CheckpointManager(manager.directory, {"model.dim": 64}, 2, Ranks(0, 0, 1))
    with pytest.raises(UserError, match=r"saved with model.dim 32, this run has 64"):
        other.read_state(checkpoint)
    (checkpoint / STATE_FILE).write_text("{")
    with pytest.raises(UserError, match=r"training_state.json: damaged"):
        manager.read_state(checkpoint)

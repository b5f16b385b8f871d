import dataclasses
import errno
import fcntl
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from helpers.saved_runs import FilesOnly, manager_of, names, save
from safetensors import safe_open
from safetensors.torch import load_file

from genesis_ds import disk
from genesis_ds.checkpoint import command
from genesis_ds.checkpoint.load.find import find_model
from genesis_ds.checkpoint.load.resume import find_checkpoint, read_training_state
from genesis_ds.checkpoint.save.directory import Moved, claim, drop_newer
from genesis_ds.checkpoint.save.manager import SaveFailed, Snapshot, write_weights
from genesis_ds.checkpoint.save.manifest import MANIFEST, Manifest, inspect
from genesis_ds.checkpoint.save.policy import KeepPolicy, Kept, to_drop
from genesis_ds.config import CheckpointConfig
from genesis_ds.disk import UMASK, NotWritten
from genesis_ds.errors import UserError

pytestmark = pytest.mark.usefixtures("one_rank")


def test_the_newest_are_kept_and_latest_names_the_last(manager):
    save(manager, 100, 200, 300)
    assert names(manager) == ["latest", "step-00000200", "step-00000300"]
    assert (manager.directory / "latest").read_text() == "step-00000300\n"
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000300"
    assert find_checkpoint(manager.directory, "never") is None


def test_a_checkpoint_with_a_name_outlives_the_plain_ones(manager):
    save(manager, 100)
    save(manager, 150, save_as="grokking_confirmed")
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000150-grokking_confirmed"
    save(manager, 200, 300, 400)
    assert names(manager) == ["latest", "step-00000150-grokking_confirmed", "step-00000300", "step-00000400"]
    save(manager, 450, save_as="grokking_confirmed")
    assert names(manager) == ["latest", "step-00000300", "step-00000400", "step-00000450-grokking_confirmed"]
    save(manager, 120)
    assert names(manager) == ["latest", "step-00000120"]


def test_milestones_and_the_best_by_a_metric_stay(tmp_path):
    manager = manager_of(tmp_path, keep_last=1, milestones=200, best_by="loss")
    for step, value in ((100, 3.0), (200, 2.0), (300, 1.0), (400, 1.5), (500, 1.7)):
        save(manager, step, value=value)
    assert names(manager) == ["latest", *(f"step-00000{step}" for step in (200, 300, 400, 500))]
    highest = KeepPolicy(CheckpointConfig(keep_last=1, best_by="accuracy", best_is="highest"))
    measured = (("accuracy", 0.9), ("accuracy", 0.5), ("loss", 0.95), ("accuracy", 0.7))
    kept = [Kept(tmp_path / str(n), n, None, False, n, *found) for n, found in enumerate(measured)]
    assert [gone.step for gone in to_drop(kept, highest)] == [1, 2]


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    manager = manager_of(tmp_path, keep_last=1, best_by="loss")
    for step, value in ((100, 2.0), (200, math.nan), (300, 1.5), (400, 3.0), (500, 3.1)):
        save(manager, step, value=value)
    assert names(manager) == ["latest", "step-00000300", "step-00000500"]
    assert find_model(tmp_path, "best").name == "step-00000300"


def test_the_best_is_by_what_the_run_is_judged_by_now_and_of_the_branch_it_is_on(tmp_path):
    save(manager_of(tmp_path, best_by="accuracy", best_is="highest"), 100, value=0.9)
    manager = manager_of(tmp_path, best_by="loss")
    save(manager, 300, value=2.0)
    assert find_model(tmp_path, "best").name == "step-00000300"
    shutil.copytree(tmp_path / "step-00000300", tmp_path / "step-00000400")  # of a branch that was left
    abandoned = Manifest.read(tmp_path / "step-00000400")
    dataclasses.replace(abandoned, sequence=0, value=1.0).write(tmp_path / "step-00000400")
    assert find_model(tmp_path, "best").name == "step-00000300"
    save(manager_of(tmp_path, best_by="accuracy", best_is="highest"), 500, value=0.5)
    assert find_model(tmp_path, "best").name == "step-00000100"


def test_saving_after_a_resume_from_an_older_step_drops_the_abandoned_branch(manager):
    save(manager, 100, 200, 300, 150)
    assert names(manager) == ["latest", "step-00000150"]
    save(manager, 160, 170)
    assert names(manager) == ["latest", "step-00000160", "step-00000170"]


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(manager):
    save(manager, 100, 100)
    assert names(manager) == ["latest", "step-00000100"]
    assert Manifest.read(manager.directory / "step-00000100").sequence == 1


def test_a_checkpoint_being_replaced_is_found_if_a_crash_comes_between_the_two_renames(manager):
    save(manager, 100)
    os.rename(manager.directory / "step-00000100", manager.directory / "step-00000100.replaced")
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000100.replaced"
    save(manager, 200)
    assert names(manager) == ["latest", "step-00000200"]


def test_what_a_crash_inside_a_save_has_left_is_not_found_and_goes_with_the_next_save(manager):
    save(manager, 100)
    shutil.copytree(manager.directory / "step-00000100", manager.directory / "step-00000200.tmp")
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000100"
    save(manager, 200)
    assert names(manager) == ["latest", "step-00000100", "step-00000200"]


def test_a_save_that_fails_leaves_the_older_checkpoint_in_charge(manager, limited_file_size):
    save(manager, 100)
    with limited_file_size(100_000), pytest.raises(SaveFailed, match=r"model.pt: File too large"):
        manager.save(FilesOnly({"weight": torch.zeros(100_000)}), Snapshot({}, {"global_step": 200}))
    assert names(manager) == ["latest", "step-00000100"]
    save(manager, 200)
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000200"


def test_weights_that_the_disk_does_not_take_leave_nothing(tmp_path, limited_file_size):
    weights, final = {"weight": torch.zeros(1000)}, tmp_path / "weights/step-00000005.safetensors"
    with limited_file_size(1000), pytest.raises(NotWritten, match=r"step-00000005.safetensors: File too large"):
        write_weights(weights, weights.items(), final)
    assert list((tmp_path / "weights").iterdir()) == []
    write_weights(weights, weights.items(), final)
    assert stat.S_IMODE((tmp_path / "weights/step-00000005.safetensors").stat().st_mode) == 0o666 & ~UMASK


def test_weights_are_written_one_at_a_time_and_read_as_they_were(tmp_path):
    weights = {
        "matrix": torch.randn(3, 4).t(),
        "rounded": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 7),
    }
    alive = []

    def one_at_a_time():
        for name, weight in weights.items():
            alive.append(weight.clone())
            yield name, alive[-1]
            alive.pop().fill_(float("nan"))

    final = tmp_path / "step-00000005.safetensors"
    write_weights({name: weight.to("meta") for name, weight in weights.items()}, one_at_a_time(), final)
    read = load_file(final)
    assert list(read) == list(weights)
    for name, weight in weights.items():
        assert read[name].dtype == weight.dtype
        assert torch.equal(read[name], weight), name
    with safe_open(final, "pt") as file:
        assert file.metadata() == {"global_step": "5"}


def test_a_background_save_holds_the_state_of_its_own_step_and_is_whole_after_a_poll(tmp_path):
    manager, weight = manager_of(tmp_path, background=True), torch.zeros(4)
    manager.save(FilesOnly({"weight": weight}), Snapshot({}, {"global_step": 100}))
    weight += 1
    manager.finish()
    assert names(manager) == ["latest", "step-00000100"]
    assert not torch.load(tmp_path / "step-00000100/model.pt")["weight"].any()
    manager.save(FilesOnly({"weight": weight}), Snapshot({}, {"global_step": 200}))
    while find_checkpoint(manager.directory, "auto").path.name == "step-00000100":
        manager.poll()


@pytest.mark.parametrize(
    ("saved", "now", "said"),
    [
        ({"model.dim": 32}, {"model.dim": 64}, "model.dim 32, this run has 64; give the saved value to continue"),
        ({}, {"optimizer.grokfast": "on"}, "optimizer.grokfast off, this run has on; leave it out to continue"),
        (
            {"data (fingerprint)": "aa"},
            {"data (fingerprint)": "bb"},
            "data (fingerprint) aa, this run has bb; give what data.corpus had then (corpora/bible) to continue",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_both_values_and_what_to_give(tmp_path, saved, now, said):
    save(manager_of(tmp_path, saved), 100)
    with pytest.raises(UserError, match=re.escape(f"saved with {said}, or --resume never with another --name")):
        read_training_state(find_checkpoint(tmp_path, "auto").path, now)


def test_a_checkpoint_that_is_a_link_counts_and_of_it_the_link_goes(manager, tmp_path):
    save(manager, 100)
    checkpoint = manager.directory / "step-00000100"
    elsewhere = checkpoint.rename(tmp_path / "bigger disk")
    checkpoint.symlink_to(elsewhere)
    assert find_checkpoint(manager.directory, "auto").path == checkpoint
    save(manager, 200, 300)
    assert names(manager) == ["latest", "step-00000200", "step-00000300"]
    assert len(list(elsewhere.iterdir())) == 4


def test_an_older_checkpoint_that_cannot_be_read_neither_comes_first_nor_ends_pruning(manager):
    save(manager, 100, 200)
    manifest = manager.directory / "step-00000100" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    assert find_checkpoint(manager.directory, "auto").notices == []
    save(manager, 300)
    lines = command.table(str(manager.directory))
    assert [line.split()[0][-3:] for line in lines[1:]] == ["300", "200", "100"]
    removed = command.prune_directory(str(manager.directory), keep_last=1)
    assert [line[-3:] for line in removed] == ["200"]


def test_links_are_never_followed_to_delete(manager, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "work").write_text("x")
    save(manager, 100)
    (manager.directory / "step-00000050.tmp").symlink_to(mine)
    (manager.directory / "mine.tmp").write_text("x")
    (manager.directory / "step-00000100/notes").symlink_to(mine)
    save(manager, 200, 300)
    assert names(manager) == ["latest", "mine.tmp", "step-00000200", "step-00000300"]
    assert (mine / "work").read_text() == (manager.directory / "mine.tmp").read_text() == "x"


def test_a_manifest_cannot_name_files_outside_its_checkpoint(manager, tmp_path):
    save(manager, 100)
    (tmp_path / "secret").write_text("x")
    manifest = Manifest.read(manager.directory / "step-00000100")
    outside = {name: disk.hash_file(tmp_path / "secret") for name in ("../../secret", str(tmp_path / "secret"))}
    dataclasses.replace(manifest, files=manifest.files | outside).write(manager.directory / "step-00000100")
    assert sum("secret: missing" in line for line in inspect(manager.directory / "step-00000100").problems) == 2


def test_what_cannot_be_tidied_away_is_a_warning_and_the_save_counts(manager, monkeypatch, capsys):
    save(manager, 100, 200)
    monkeypatch.setattr(disk, "remove", lambda path: os.rmdir(path))
    save(manager, 300)
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000300"
    assert "step-00000100.tmp: Directory not empty; it is of no use any more" in capsys.readouterr().err


def test_a_file_that_nobody_reads_is_a_notice(manager):
    save(manager, 100, 200)
    (manager.directory / "step-00000200/.DS_Store").write_bytes(b"x")
    (manager.directory / "step-00000200/model.pt:Zone.Identifier").write_bytes(b"x")
    found = find_checkpoint(manager.directory, "auto")
    assert found.path.name == "step-00000200"
    assert [notice.split("/")[-1] for notice in found.notices] == [
        ".DS_Store: not in the manifest, and not read",
        "model.pt:Zone.Identifier: not in the manifest, and not read",
    ]
    lines, good = command.verify(str(manager.directory))
    assert good
    assert sum(line.startswith("notice:") for line in lines) == 2


def test_a_run_moved_while_it_trains_is_saved_where_it_is_and_ends(manager, tmp_path):
    save(manager, 100)
    moved = manager.directory.rename(tmp_path / "moved")
    with pytest.raises(Moved, match=r"was moved to .*moved while the run trained.*step-00000200 is saved there"):
        save(manager, 200)
    assert find_checkpoint(manager.directory, "auto").path == moved / "step-00000200"
    assert not (tmp_path / "checkpoints").exists()
    shutil.rmtree(moved)
    with pytest.raises(Moved, match="was removed while the run trained"):
        save(manager, 300)
    assert not moved.exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def not_supported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", not_supported)
    monkeypatch.setattr(os, "fsync", lambda handle: not_supported() if stat.S_ISDIR(os.fstat(handle).st_mode) else None)
    manager = manager_of(tmp_path / "checkpoints")
    claim(manager.directory)
    assert "lock: this file system has no locks" in capsys.readouterr().err
    save(manager, 100)
    assert find_checkpoint(manager.directory, "auto")


def test_after_a_rewind_the_checkpoint_gone_back_to_is_the_newest(manager):
    save(manager, 100, 200)
    drop_newer(manager.directory, manager.directory / "step-00000100")
    assert find_checkpoint(manager.directory, "auto").path.name == "step-00000100"


def test_one_process_at_a_time_trains_a_run_and_a_killed_one_lets_go(tmp_path):
    code = "import pathlib, time; from genesis_ds.checkpoint.save.directory import claim"
    code += f"; claim(pathlib.Path('{tmp_path}'))"
    holder = subprocess.Popen([sys.executable, "-c", f"{code}; print(flush=True); time.sleep(60)"], stdout=-1)
    holder.stdout.readline()
    with pytest.raises(UserError, match=rf"process {holder.pid} on .* is training this run"):
        claim(tmp_path)
    holder.kill()
    holder.wait()
    claim(tmp_path)


def test_the_commands_say_what_is_there_what_is_wrong_and_what_they_remove(manager):
    save(manager, 100, 200)
    lines = command.table(str(manager.directory))
    assert [line.split()[0] for line in lines] == ["checkpoint", "step-00000200", "step-00000100"]
    assert command.verify(str(manager.directory))[1]
    (manager.directory / "step-00000300.tmp").mkdir()
    removed = command.prune_directory(str(manager.directory), keep_last=1)
    assert [line.split("/")[-1] for line in removed] == ["step-00000300.tmp", "step-00000100"]
    (manager.directory / "step-00000200/model.pt").unlink()
    lines, good = command.verify(str(manager.directory))
    assert (lines, good) == ([f"{manager.directory / 'step-00000200/model.pt'}: missing"], False)
    with pytest.raises(UserError, match="the older ones stay"):
        command.prune_directory(str(manager.directory), keep_last=1)

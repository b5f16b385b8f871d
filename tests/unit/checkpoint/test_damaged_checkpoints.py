"""What is found where files of a checkpoint are not as they were written."""

import json
import os
import re
import shutil

import pytest
from helpers.saved_runs import names, save

from genesis_ds.checkpoint.load.resume import find_checkpoint
from genesis_ds.checkpoint.save.manifest import MANIFEST, inspect
from genesis_ds.errors import UserError

pytestmark = pytest.mark.usefixtures("one_rank")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_whatever_file_is_damaged_an_older_checkpoint_is_found_and_the_file_is_named(manager, damage):
    save(manager, 100, 200)
    newest = manager.directory / "step-00000200"
    whole = {path: path.read_bytes() for path in newest.iterdir()}
    assert len(whole) == 4
    for path, content in whole.items():
        damage(path)
        found = find_checkpoint(manager.directory, "auto")
        assert found.path.name == "step-00000100"
        assert str(path) in found.notices[0]
        with pytest.raises(UserError, match=path.name):
            find_checkpoint(manager.directory, str(newest))
        path.write_bytes(content)
    assert find_checkpoint(manager.directory, "auto").path == newest
    (newest / "foreign.pt").write_bytes(b"")
    assert "foreign.pt: not in the manifest" in find_checkpoint(manager.directory, "auto").notices[0]


def test_a_manifest_that_was_changed_is_found_out(manager):
    save(manager, 100)
    path = manager.directory / "step-00000100" / MANIFEST
    text = path.read_text()
    path.write_text(text.replace('"global_step": 100', '"global_step": 101'))
    assert inspect(path.parent).problems == [f"{path}: damaged (its own sha256 differs)"]


def test_a_checkpoint_of_another_version_says_which_and_stays(manager):
    save(manager, 100)
    path = manager.directory / "step-00000100" / MANIFEST
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"format": 2, "versions": {"genesis_ds": "9.9"}}))
    with pytest.raises(
        UserError, match=r"format is 2, written by genesis_ds 9.9; this program, genesis_ds .*, reads 1"
    ):
        find_checkpoint(manager.directory, str(path.parent))
    save(manager, 200, 300, 400)
    assert names(manager) == ["latest", "step-00000100", "step-00000300", "step-00000400"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("global_step", "x", "global_step: Input should be a valid integer"),
        ("files", [], "files: .* should be an object"),
    ],
)
def test_a_wrong_field_of_a_manifest_is_named(manager, key, value, message):
    save(manager, 100)
    path = manager.directory / "step-00000100" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    (problem,) = inspect(path.parent).problems
    assert re.search(rf"{MANIFEST}: {message}", problem)


def test_no_good_checkpoint_is_an_error_and_never_a_silent_start_anew(manager):
    assert find_checkpoint(manager.directory, "auto") is None
    save(manager, 100)
    checkpoint = manager.directory / "step-00000100"
    (checkpoint / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"no good checkpoint .*manifest.json: missing; bring one back"):
        find_checkpoint(manager.directory, "auto")
    shutil.rmtree(checkpoint)
    with pytest.raises(UserError, match=r"latest: names a checkpoint, and there is none"):
        find_checkpoint(manager.directory, "auto")
    with pytest.raises(UserError, match=r"nowhere: no checkpoint is there .*--resume takes auto, never or a path"):
        find_checkpoint(manager.directory, str(manager.directory / "nowhere"))

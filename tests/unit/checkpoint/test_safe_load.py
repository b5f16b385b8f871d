import os
import pickle

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.errors import UserError


class Touch:
    """Its unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_named_and_runs_only_with_trust(tmp_path):
    made, path = tmp_path / "made", tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2), "extra": Touch(made)}, path)
    with pytest.raises(UserError, match=r"model.pt: holds objects of posix.mkdir, .*--trust"):
        safe_load(path)
    assert not made.exists()
    safe_load(path, trust=True)
    assert made.exists()


class ByName:
    """An attribute as Python 3.11.0 to 3.11.3 pickle a member of an enumeration."""

    def __init__(self, *of):
        self.of = of

    def __reduce__(self):
        return getattr, self.of


def test_a_stage_that_was_pickled_by_name_is_read_and_no_other_attribute(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"stage": ByName(ZeroStageEnum, "gradients")}, path)
    assert safe_load(path) == {"stage": ZeroStageEnum.gradients}
    for of in ((LossScaler, "__init__"), (ZeroStageEnum, "__class__")):
        torch.save({"stage": ByName(*of)}, path)
        with pytest.raises(UserError, match=r"model.pt: holds objects of .*builtins.getattr.*--trust"):
            safe_load(path)


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_no_file_of_tensors_is_an_error_of_one_line(tmp_path, mmap):
    whole = tmp_path / "whole.pt"
    torch.save({"weight": torch.ones(1000)}, whole)
    assert torch.equal(safe_load(whole, mmap)["weight"], torch.ones(1000))
    contents = {"empty": b"", "junk": b"junk" * 100, "cut": whole.read_bytes()[:2000], "pickle": pickle.dumps([print])}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: damaged, or not a file of tensors and plain data"):
            safe_load(tmp_path / name, mmap)

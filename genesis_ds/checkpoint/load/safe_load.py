"""Reading pickled files without running what is in them."""

import os
from pathlib import Path
from typing import Any

import torch

from genesis_ds.engine.distributed import accelerator
from genesis_ds.errors import OF_A_PATH, UserError, named_by_user

GETATTR = "builtins.getattr"
"""By which Python 3.11.0 to 3.11.3, Debian 12's among them, pickle a member of an enumeration."""


def safe_load(path: Path, mmap: bool = False, trust: bool = False) -> Any:
    """Return what torch.save has written, on the CPU: tensors, plain data, and three classes of DeepSpeed's.

    mmap: tensors stay on the disk until they are used. trust: any class at all, whose code then runs.
    Raises UserError for a file that is damaged, and for one that holds other classes without trust.
    """
    os.environ.setdefault("DS_ACCELERATOR", accelerator())  # DeepSpeed would look for one itself, and say so
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with named_by_user(path):
        path.open("rb").close()
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address, (_member, GETATTR)]):
            return torch.load(path, map_location="cpu", weights_only=not trust, mmap=mmap)
    except Exception as error:  # what an unpickler makes of arbitrary bytes is any exception
        if isinstance(error, OSError) and error.errno not in OF_A_PATH:
            raise
        if found := _foreign_classes(path):
            raise UserError(
                f"{path}: holds objects of {', '.join(found)}, and reading them runs code; "
                "if you trust where the file comes from, give --trust true (launch/train.py: --trust)"
            ) from error
        raise UserError(f"{path}: damaged, or not a file of tensors and plain data") from error


def _member(of: Any, name: str) -> Any:
    """Return a ZeRO stage by its name, and nothing else: what stands in the place of getattr."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    if of is not ZeroStageEnum:
        raise ValueError(f"{name} of something else than a ZeRO stage")
    return ZeroStageEnum[name]


def _foreign_classes(path: Path) -> list[str]:
    """Return the classes that are not allowed; none where the file cannot tell (no zip archive, or a broken one)."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        return []

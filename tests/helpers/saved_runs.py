"""Checkpoints of a run as its manager saves them, of an engine that has files alone."""

import dataclasses

import torch

from genesis_ds.checkpoint.save.manager import CheckpointManager, Snapshot
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config import CheckpointConfig, RunConfig
from genesis_ds.engine.ranks import Ranks


class FilesOnly:
    """Stands for the engine where only the file handling matters."""

    def __init__(self, state=None):
        self.tensors = {"weight": torch.arange(3.0)} if state is None else state

    zero_stage = 2

    def state(self, directory):
        return {"model.pt": self.tensors}


def manager_of(directory, identity=None, **policy):
    same = {"model.dim": 32} if identity is None else identity
    background, milestones = policy.pop("background", False), policy.pop("milestones", 0)
    keep = KeepPolicy(CheckpointConfig(**{"keep_last": 2, "keep_named": 1} | policy), milestones)
    return CheckpointManager(directory, keep, Ranks(0, 0, 1), identity=same, background=background)


def save(manager, *steps, **snapshot):
    keep = dataclasses.replace(manager.policy.config, milestones=manager.policy.milestones)
    config = dataclasses.asdict(RunConfig(checkpoint=keep))
    for step in steps:
        manager.save(FilesOnly(), Snapshot(config, {"global_step": step}, **snapshot))


def names(manager):
    return sorted(path.name for path in manager.directory.iterdir() if path.name != "lock")

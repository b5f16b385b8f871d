"""Where blocks are compiled, and what is said where nothing can be."""

from types import SimpleNamespace

import pytest
import torch

from genesis_ds.config import ActivationCheckpointingConfig, CompileConfig, ExtensionsConfig, RunConfig
from genesis_ds.engine.compiled_blocks import is_on
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ONE = Ranks(0, 0, 1)


def run_of(when, **more):
    return RunConfig(compile=CompileConfig(when=when), **more)


def resolved(when, stage=2, tasks=("lm",)):
    return SimpleNamespace(config=run_of(when), ds_config=SimpleNamespace(zero_stage=stage), tasks=tasks)


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr("genesis_ds.engine.compiled_blocks.gather", lambda value: [value])


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(function):
        raise RuntimeError("no C++ compiler was found\n and much more")

    monkeypatch.setattr(torch, "compile", fail)


def test_a_cpu_compiles_only_when_told_to(no_compiler, capsys):
    assert not is_on(resolved("gpu"), CPU, ONE)
    assert not is_on(resolved("never"), GPU, ONE)
    with pytest.raises(UserError, match=r"^compile.when: always, but .*: no C\+\+ compiler was found; give never$"):
        is_on(resolved("always"), CPU, ONE)
    assert not capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here, on which it compiles")
def test_a_gpu_on_which_nothing_compiles_is_said_in_a_line_and_trains_all_the_same(capsys):
    assert not is_on(resolved("gpu"), GPU, ONE)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the blocks are not compiled, and training is slower: ")


def test_a_model_of_ones_own_is_compiled_only_when_told_to():
    own = {"extensions": ExtensionsConfig(model="mine:Model")}
    assert not run_of("gpu", **own).compiles_on("cuda")
    assert run_of("always", **own).compiles_on("cuda")


def test_blocks_of_ones_own_are_not_both_compiled_and_recomputed_whole():
    own = {"extensions": ExtensionsConfig(model="mine:Model")}
    recomputed = {"activation_checkpointing": ActivationCheckpointingConfig(mode="block")}
    run_of("gpu", **own, **recomputed)
    with pytest.raises(UserError, match=r"^compile\.when: always, but mine:Model would recompute nothing; give "):
        run_of("always", **own, **recomputed)


@pytest.mark.parametrize(
    ("stage", "tasks", "n_ranks", "compiles"), [(2, 2, 2, False), (3, 2, 2, True), (2, 1, 2, True)]
)
def test_ranks_whose_gradients_would_come_in_different_orders_are_not_compiled(stage, tasks, n_ranks, compiles):
    of = resolved("always", stage, ("lm", "coherence")[:tasks])
    assert is_on(of, CPU, Ranks(0, 0, n_ranks)) == compiles

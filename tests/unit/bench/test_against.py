"""`genesis-ds bench --against`: what is made of the turns, and how a largest size is found."""

import sys
from contextlib import contextmanager
from functools import partial
from operator import attrgetter

import pytest
import torch

from genesis_ds.bench import against
from genesis_ds.bench.against import LEFT_OUT, language_modelling, largest, largest_of, summarise, turn
from genesis_ds.bench.loops import require_accelerate
from genesis_ds.config import (
    BatchConfig,
    DataConfig,
    DistillConfig,
    MaskingConfig,
    MemorisationConfig,
    ModelConfig,
    RunConfig,
)
from genesis_ds.errors import UserError


def a_turn(speed, host=1):
    return {"tokens_per_second": speed, "gpu_allocated": 0, "gpu_reserved": 0, "host": host}


def test_a_ratio_is_that_within_a_round_and_a_loop_that_ran_out_of_memory_has_none():
    out = {"out_of_memory": True}
    found = summarise({"ours": [a_turn(10), a_turn(90, host=7)], "slow": [a_turn(5), a_turn(30)], "large": [out, out]})
    assert found["ratios"]["ours / slow"] == {"median": 2.5, "min": 2, "max": 3}
    assert found["ratios"]["ours / large"] is None
    assert found["tokens_per_second"] == {"ours": 50, "slow": 17.5, "large": None}
    assert found["host_bytes"]["ours"] == 7


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 100, 1000])
def test_the_largest_that_holds_is_found_to_an_eighth(most):
    asked = []
    found = largest(lambda size: not asked.append(size) and size <= most)
    assert most - most // 8 <= found <= most
    assert max(asked) <= max(1, 2 * most)


def test_each_size_that_the_search_tries_is_a_line(monkeypatch, capsys):
    def a_turn_of(size, **_):
        return {"host": 100 * size.batch.micro_batch_size * size.model.n_layers, "gpu_reserved": 0}

    monkeypatch.setattr(against, "turn", a_turn_of)
    monkeypatch.setattr(against.distributed, "accelerator", lambda: "cpu")
    run = RunConfig(model=ModelConfig(n_layers=1), batch=BatchConfig(micro_batch_size=1, global_batch_size=1))
    assert largest_of("ours", run, lambda run: {"ours": run}, 250) == {"micro_batch_size": 2, "n_layers": 2}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [f"ours, micro-batch {size}" for size in (1, 2, 4)]
    assert lines[-1].startswith("ours, layers 3")


def test_a_missing_accelerate_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match="accelerate is not installed; pip install accelerate"):
        require_accelerate()


def test_what_the_other_loops_have_no_part_in_is_left_out():
    run = RunConfig(
        tasks={"lm": 3, "coherence": 1},
        masking=MaskingConfig(kind="random"),
        distill=DistillConfig(teacher=["runs/a"]),
        memorisation=MemorisationConfig(canaries=4),
        data=DataConfig(chapter_order="shuffled"),
    )
    plain = language_modelling(run)
    assert [key for key in LEFT_OUT if attrgetter(key)(plain) != attrgetter(key)(run)] == list(LEFT_OUT)
    assert language_modelling(plain) == plain


def test_a_turn_without_enough_memory_of_the_host_is_a_result_and_any_other_error_is_raised():
    @contextmanager
    def large(nbytes):
        yield torch.empty(nbytes)

    def take(nbytes):
        return turn(partial(large, nbytes), n_warm_up=0, n_steps=0, max_seconds=None)

    assert take(2**50) == {"out_of_memory": True}
    with pytest.raises(RuntimeError, match="negative dimension"):
        take(-1)

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.config import EvaluationConfig
from genesis_ds.data.token_set import TokenSet, TokenSetManifest
from genesis_ds.engine.distributed import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import BitsPerByte

VOCABULARY = 8


@pytest.fixture
def token_set(tmp_path):
    """43 tokens, of which those of id 0 stand for no byte and the others for two."""
    np.save(tmp_path / "byte_lengths.npy", np.array([0] + [2] * (VOCABULARY - 1), dtype=np.int32))
    for split in ("val_chapter", "val_book"):
        np.save(tmp_path / f"xx.{split}.tokens.npy", (np.arange(43) % VOCABULARY).astype(np.uint16))
        np.savez(tmp_path / f"xx.{split}.verses.npz", verse_ids=[], starts=[], lengths=[])
    return TokenSet(tmp_path, TokenSetManifest("", "", ["xx"], {}, {}, ""))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_bits_per_byte_of_a_uniform_model_by_hand(token_set, world_size, monkeypatch):
    """5 windows of 10, the last padded, over micro-batches of 2 and several ranks, whose sums are added up here."""
    shares: list[list[float]] = []
    monkeypatch.setattr(
        "genesis_ds.hooks.evaluate.model_calls.sum_over_ranks",
        lambda values, on: shares.append(values) or [sum(map(sum, shares))],
    )
    calls = []

    def uniform(task, tokens, targets):
        calls.append(tokens.shape)
        return torch.zeros(*tokens.shape, VOCABULARY)

    for rank in range(world_size):
        evaluation = BitsPerByte(
            TaskContext(
                data=token_set,
                seq_len=10,
                micro_batch_size=2,
                rows_per_pack=2,
                seed=0,
                evaluation=EvaluationConfig(max_windows=0),
            )
        )
        evaluation.windows = {("val_book", "xx"): evaluation.windows["val_book", "xx"]}
        calls_of_rank = ModelCalls(uniform, Ranks(rank, rank, world_size), torch.device("cpu"))
        hook = EvaluateTasks(calls_of_rank, nullcontext, {"lm": evaluation}, {"lm": EvaluationSchedule(1)})
        record = StepRecord(1, 1)
        hook.on_step(record)
    n_targets, n_bytes = 42, 2 * sum(i % VOCABULARY != 0 for i in range(1, 43))
    assert record.metrics["val/val_book/xx/bits_per_byte"] == pytest.approx(n_targets * 3 / n_bytes)
    assert len(calls) == world_size * math.ceil(5 / (2 * world_size))

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.config import EvaluationConfig
from genesis_ds.data.token_set import TokenSet, TokenSetManifest
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import BitsPerByte

VOCABULARY = 8
SPLITS = {"val_chapter": np.arange(43) % VOCABULARY, "val_book": (np.arange(43) + 5) % VOCABULARY}


@pytest.fixture
def token_set(tmp_path):
    """43 tokens of each split, of which those of id 0 stand for no byte and the others for two."""
    np.save(tmp_path / "byte_lengths.npy", np.array([0] + [2] * (VOCABULARY - 1), dtype=np.int32))
    for split, tokens in SPLITS.items():
        np.save(tmp_path / f"xx.{split}.tokens.npy", tokens.astype(np.uint16))
        np.savez(tmp_path / f"xx.{split}.verses.npz", verse_ids=[], starts=[], lengths=[])
    return TokenSet(tmp_path, TokenSetManifest("", "", ["xx"], {}, {}, ""))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_bits_per_byte_by_hand_of_a_model_that_knows_a_token(token_set, world_size, monkeypatch):
    """Two splits of 5 windows of 10, the last padded, share micro-batches of 2; ranks' sums are added up here."""
    shares: list[list[float]] = []
    monkeypatch.setattr(
        "genesis_ds.hooks.evaluate.model_calls.sum_over_ranks",
        lambda values, on: shares.append(values) or np.sum(shares, axis=0).tolist(),
    )
    calls = []

    def model(task, tokens, targets):
        """Certain of what follows a 5 and of nothing else."""
        calls.append(tokens.shape)
        logits = torch.zeros(*tokens.shape, VOCABULARY)
        logits[..., 6] = 100.0 * (tokens == 5)
        return logits

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
        calls_of_rank = ModelCalls(model, Ranks(rank, rank, world_size), torch.device("cpu"))
        hook = EvaluateTasks(calls_of_rank, nullcontext, {"lm": evaluation}, {"lm": EvaluationSchedule(1)})
        record = StepRecord(1, 1)
        hook.on_step(record)
    for split, tokens in SPLITS.items():
        targets = tokens[1:]
        n_unknown, n_bytes = (tokens[:-1] != 5).sum(), 2 * (targets != 0).sum()
        assert record.metrics[f"val/{split}/xx/bits_per_byte"] == pytest.approx(n_unknown * 3 / n_bytes)
    assert len(calls) == world_size * math.ceil(10 / (2 * world_size))


def test_a_curve_of_the_other_split_stands_beside_that_of_the_one_that_is_looked_at(token_set):
    np.save(token_set.directory / "xx.train.tokens.npy", np.arange(43, dtype=np.uint16) % VOCABULARY)
    np.savez(token_set.directory / "xx.train.verses.npz", verse_ids=[], starts=[], lengths=[])

    class Model:
        """Of which the losses of the three splits, in their order, are 1, 2 and 3 nats a token."""

        def sums(self, task, batches, measure):
            return [42.0, 84.0, 126.0]

    context = TaskContext(data=token_set, seq_len=10, micro_batch_size=2, rows_per_pack=2, seed=0, curves_of="val_book")
    curves = BitsPerByte(context)(Model()).curves()
    losses = {curve: (train.loss, val.loss) for curve, (train, val) in curves.items()}
    assert losses == {"lm/xx": (3.0, 2.0), "lm/xx/val_chapter": (3.0, 1.0)}

"""Multi-token prediction: its windows, targets, loss and evaluation."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genesis_ds.analysis.skip_bigrams import SkipBigrams
from genesis_ds.config import EvaluationConfig, VerseTasksConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.errors import Unavailable, UserError
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tasks.multi_token import MultiToken
from genesis_ds.tokenizer import load_tokenizer

SEQ_LEN, OFFSETS, V = 24, (2, 3, 4), 260


@pytest.fixture(scope="module")
def context(synthetic, tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    token_set = compile_token_set(synthetic, [], load_tokenizer("bytes"), split_verses(synthetic), root)

    def build(ahead=4, **more):
        options = VerseTasksConfig(tokens_ahead=ahead)
        given = {"seq_len": SEQ_LEN, "micro_batch_size": 4, "rows_per_pack": 2, "seed": 0, **more}
        return TaskContext(data=token_set, options=options, **given)

    return build


def test_a_target_is_the_token_so_far_ahead_and_none_is_beyond_the_window(context):
    batch = MultiToken.build(context()).batch(range(6))
    tokens, targets = batch.inputs["tokens"], batch.labels["targets"].view(6, len(OFFSETS), SEQ_LEN)
    for at, offset in enumerate(OFFSETS):
        assert torch.equal(targets[:, at, : SEQ_LEN - offset], tokens[:, offset:])
        assert (targets[:, at, SEQ_LEN - offset] != IGNORE).all(), "the window has a token more than the input"
        assert (targets[:, at, SEQ_LEN - offset + 1 :] == IGNORE).all()
    assert torch.equal(batch.inputs["targets"], batch.labels["targets"])
    assert batch.n_tokens == tokens.numel()


def test_an_epoch_is_the_text_in_an_order_that_is_not_that_of_language_modelling(context):
    task, again, other = (MultiToken.build(context(seed=seed)) for seed in (0, 0, 1))
    of_lm = LanguageModelling.build(context())
    n = task.sequences_per_epoch
    assert n == of_lm.sequences_per_epoch
    whole, first = task.batch(range(n)).inputs["tokens"], of_lm.batch(range(n)).inputs["tokens"]
    counts = [torch.bincount(tokens.flatten(), minlength=V) for tokens in (whole, first)]
    assert (counts[0] - counts[1]).abs().sum() < 0.02 * whole.numel(), "the same text, but for what epochs leave over"
    assert not torch.equal(whole, first)
    assert torch.equal(again.batch([n + 7]).inputs["tokens"], task.batch(range(n, n + 8)).inputs["tokens"][7:])
    assert not torch.equal(other.batch(range(4)).inputs["tokens"], whole[:4])


def test_the_loss_is_the_mean_over_all_targets_also_of_nats_in_chunks(context):
    task = MultiToken.build(context())
    batch = task.batch(range(4))
    targets = batch.labels["targets"]
    logits = torch.randn(*targets.shape, V, generator=torch.Generator().manual_seed(0))
    nats = F.cross_entropy(logits.movedim(-1, 1), targets, ignore_index=IGNORE, reduction="none")
    expected = nats.sum() / (targets != IGNORE).sum()
    torch.testing.assert_close(task.loss(logits, batch)[0], expected)
    torch.testing.assert_close(task.loss(nats, batch)[0], expected)


def test_it_is_judged_by_offset_and_language_beside_counts_of_training(context):
    judged = context(evaluation=EvaluationConfig(max_windows=8), curves_of="val_book")
    evaluate = MultiToken.build(judged).evaluation(judged)
    of_offset = torch.tensor([1.0, 2.0, 4.0])

    class Model:
        """Whose loss is a number of nats for each offset."""

        def sums(self, task, batches, measure):
            sums = []
            for make in batches:
                batch = make()
                rows = len(batch.labels["targets"])
                nats = of_offset.repeat_interleave(SEQ_LEN).expand(rows, -1)
                sums.append(measure(nats * (batch.labels["targets"] != IGNORE), batch))
            return np.sum(sums, axis=0).tolist()

    found = evaluate(Model())
    names = [name for name in found.metrics if not name.endswith("by_bigrams")]
    assert len(names) == 3 * len(OFFSETS) * len(judged.token_set.languages)
    for name in names:  # most tokens are a byte, and those of no byte cost something too
        at = OFFSETS.index(int(re.search(r"ahead_(\d+)_bits_per_byte$", name)[1]))
        assert found.metrics[name] == pytest.approx(float(of_offset[at]) / math.log(2), rel=0.1)
        assert 0.5 < found.metrics[f"{name}/by_bigrams"] < 7
    for scores in found.scores.values():
        assert [score.loss for score in scores.values()] == pytest.approx([7 / 3] * len(scores), rel=0.1)


def test_counts_are_smoothed_by_single_tokens_and_are_probabilities():
    table = SkipBigrams(np.array([0, 1, 2, 0, 3, 2]), 2, 5)  # 0-2 twice, 1-0, 2-3
    alone = np.array([3, 2, 3, 2, 1]) / 11
    firsts = np.repeat(np.arange(5), 5).reshape(5, 5)
    found = np.exp(-table.nats(firsts, firsts.T))
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], (np.array([0, 0, 2, 0, 0]) + alone) / 3)
    np.testing.assert_allclose(found[4], alone)


def test_a_reach_that_makes_no_sense_is_one_line(context):
    with pytest.raises(
        UserError, match=r"^verse_tasks\.tokens_ahead: 1 is not allowed; give a whole number from 2 to 64"
    ):
        VerseTasksConfig(tokens_ahead=1)
    with pytest.raises(Unavailable, match=r"tokens_ahead 13 is more than half of batch\.seq_len 24"):
        MultiToken.build(context(ahead=13))
    assert MultiToken.build(context(ahead=12)).offsets[-1] == 12


def test_few_and_many_kinds_of_tokens_are_counted_alike():
    tokens = np.random.default_rng(0).integers(5, size=200)
    expected = [[((tokens[:-3] == a) & (tokens[3:] == b)).sum() for b in range(5)] for a in range(5)]
    for vocab_size in (5, 500):
        table, found = SkipBigrams(tokens, 3, vocab_size), np.zeros((vocab_size, vocab_size))
        found.flat[table.pairs] = table.counts
        assert found[:5, :5].tolist() == expected
        assert found.sum() == 197

from collections import Counter

import numpy as np
import pytest
import torch

from genesis_ds.config import EvaluationConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.data.token_set import TokenSet, TokenSetManifest, compile_token_set
from genesis_ds.errors import UserError
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.lm import LanguageModelling, cross_entropy, evaluation_windows, window_starts
from genesis_ds.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    corpus = synthetic_corpus(chapters_per_book=1)
    split = split_verses(corpus)
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split, tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def task(token_set):
    return LanguageModelling(token_set, seq_len=64, seed=0)


def rows(batch):
    return [tuple(row) for row in batch.inputs["tokens"].tolist()]


def test_an_epoch_visits_every_window_once_and_the_next_one_in_another_order_and_cut(task):
    n = task.sequences_per_epoch
    first, second = (rows(task.batch(range(epoch * n, (epoch + 1) * n))) for epoch in range(2))
    assert max(Counter(first).values()) == 1
    assert first != second
    assert set(first) != set(second)


def test_an_epoch_predicts_every_training_token_at_most_once_and_leaves_out_less_than_a_window(tmp_path):
    """On streams that count up, a window says where it was cut."""
    lengths = {"a": 1000, "b": 777}
    empty = {"verse_ids": [], "starts": [], "lengths": []}
    for language, length in lengths.items():
        first = 0 if language == "a" else 10000
        np.save(tmp_path / f"{language}.train.tokens.npy", np.arange(first, first + length, dtype=np.uint16))
        np.savez(tmp_path / f"{language}.train.verses.npz", **empty)
    task = LanguageModelling(
        TokenSet(tmp_path, TokenSetManifest("", "", list(lengths), {}, {}, "")), seq_len=50, seed=0
    )
    for epoch in range(3):
        n = task.sequences_per_epoch
        targets = Counter(task.batch(range(epoch * n, (epoch + 1) * n)).labels["targets"].flatten().tolist())
        assert max(targets.values()) == 1
        for first, length in ((0, 1000), (10000, 777)):
            assert sum(first <= target < first + length for target in targets) >= length - 50


def test_every_window_is_a_slice_of_one_training_stream_with_the_next_token_as_target(task):
    batch = task.batch(range(5000, 5020))
    texts = [stream.tobytes() for stream in task.streams]
    for tokens, targets in zip(batch.inputs["tokens"], batch.labels["targets"], strict=True):
        assert torch.equal(tokens[1:], targets[:-1])
        window = np.append(tokens.numpy(), targets[-1]).astype(np.uint16).tobytes()
        assert sum(window in text for text in texts) == 1


def test_a_batch_is_a_pure_function_of_seed_and_position(token_set, task):
    again = LanguageModelling(token_set, seq_len=64, seed=0)
    expected = task.batch(range(10**7, 10**7 + 4))
    assert torch.equal(again.batch([10**7 + 2]).inputs["tokens"][0], expected.inputs["tokens"][2])
    other_seed = LanguageModelling(token_set, seq_len=64, seed=1)
    assert not torch.equal(other_seed.batch([10**7]).inputs["tokens"], expected.inputs["tokens"][:1])


def test_training_without_masks_sees_the_text_itself(task):
    batch = task.batch(range(4))
    assert task.corrupted(batch, range(4), step=0) is batch


def test_the_keyed_order_never_changes():
    """These are the values of the first release: another order would break the resumption of every run."""
    assert keyed_permutation("lm/0/0", 8).tolist() == [2, 3, 1, 0, 7, 6, 5, 4]


def test_evaluation_windows_cover_every_target_once(token_set):
    stream = token_set.stream("val_chapter", "qac")
    batch = evaluation_windows(stream, seq_len=100, max_windows=0)
    targets = batch.labels["targets"][batch.labels["targets"] != IGNORE]
    assert targets.tolist() == stream.tokens[1:].tolist()
    assert len(evaluation_windows(stream, 100, max_windows=3).inputs["tokens"]) == 3


def test_padding_of_a_single_window_is_no_target(token_set):
    stream = token_set.stream("val_chapter", "qaa")
    batch = evaluation_windows(stream, seq_len=len(stream.tokens) + 9, max_windows=0)
    tokens, targets = batch.inputs["tokens"], batch.labels["targets"]
    assert tokens.shape == targets.shape == (1, len(stream.tokens) + 9)
    assert (targets == IGNORE).sum() == 10
    assert tokens.min() == 0


def test_a_window_longer_than_the_text_is_an_error_with_the_limit(token_set):
    with pytest.raises(UserError, match=r"batch.seq_len: 1000000 is longer than the training text; give at most \d+"):
        LanguageModelling(token_set, seq_len=10**6, seed=0)


def test_the_loss_leaves_ignored_targets_out():
    logits = torch.randn(2, 24, 50, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(48).view(2, 24)
    targets[:, 10:] = IGNORE
    mean = cross_entropy(logits, targets)
    torch.testing.assert_close(mean, cross_entropy(logits[:, :10], targets[:, :10]))
    torch.testing.assert_close(cross_entropy(logits, targets, "sum"), mean * 20)


def test_many_languages_are_judged_on_fewer_windows_each_and_a_single_one_is_the_middle_one():
    assert [EvaluationConfig().windows(n) for n in (1, 8, 16, 33, 100)] == [8, 8, 4, 1, 1]
    assert window_starts(1001, 100, 1) == [500]
    assert window_starts(1001, 100, 3) == [0, 400, 900]
    assert window_starts(50, 100, 1) == [0]

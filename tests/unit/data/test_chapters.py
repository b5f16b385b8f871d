"""Chapters that stand in another order in every epoch: all of the text, whole chapters, a function of (seed, epoch)."""

import numpy as np
import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID

SEQ_LEN = 48


@pytest.fixture(scope="module")
def token_set(synthetic, tmp_path_factory):
    return compile_token_set(
        synthetic, [], load_tokenizer("bytes"), split_verses(synthetic), tmp_path_factory.mktemp("set")
    )


@pytest.fixture
def task(token_set):
    return LanguageModelling(token_set, SEQ_LEN, seed=0, shuffle_chapters=True)


def windows(task, epoch):
    """(language, tokens [T+1], their places in the stream) of every window of an epoch."""
    for index in range(task.sequences_per_epoch):
        position = epoch * task.sequences_per_epoch + index
        language, pieces = task._pieces(position, SEQ_LEN + 1)
        yield language, task._window(position), np.concatenate([np.array(piece) for piece in pieces])


def test_an_epoch_has_every_token_once_but_for_less_than_a_window_a_language(task):
    for epoch in (0, 1):
        places = {}
        for language, tokens, stands in windows(task, epoch):
            assert len(tokens) == SEQ_LEN + 1
            assert (task.streams[language][stands] == tokens).all()
            places.setdefault(language, []).append(stands[:-1])
        for language, found in places.items():
            trained = np.concatenate(found)
            assert len(np.unique(trained)) == len(trained) > len(task.streams[language]) - 1 - SEQ_LEN


def test_chapters_stay_whole_and_their_neighbours_differ_from_epoch_to_epoch(task):
    neighbours = []
    for epoch in (0, 1):
        neighbours.append(set())
        for language, tokens, stands in windows(task, epoch):
            jumps = np.flatnonzero(np.diff(stands) != 1)
            assert (tokens[jumps] == EOS_ID).all()
            assert (tokens[jumps + 1] == BOS_ID).all()
            neighbours[-1] |= {(language, *stands[jump : jump + 2]) for jump in jumps.tolist()}
    first, second = neighbours
    assert len(first & second) < len(first) / 2


def test_a_batch_does_not_depend_on_what_was_asked_before(token_set, task):
    n = task.sequences_per_epoch
    positions = [3, n + 3, 2 * n - 1, 3]
    ahead = LanguageModelling(token_set, SEQ_LEN, seed=0, shuffle_chapters=True)
    alone = [ahead.batch([position]).inputs["tokens"] for position in reversed(positions)][::-1]
    assert (task.batch(positions).inputs["tokens"] == np.concatenate(alone)).all()
    other_seed = LanguageModelling(token_set, SEQ_LEN, seed=1, shuffle_chapters=True)
    assert (other_seed.batch(range(8)).inputs["tokens"] != task.batch(range(8)).inputs["tokens"]).any()

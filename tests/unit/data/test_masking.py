from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genesis_ds.config import MaskingConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.corpus.words import WORD
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.word_spans import number_words_of_window
from genesis_ds.errors import UserError
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tasks.masking import MASK_ID, Masks, _earliest_cover
from genesis_ds.tasks.mixture import Mixture
from genesis_ds.tasks.positions import micro_batches
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece
from genesis_ds.training.session import train_arguments

SEQ_LEN, N = 96, 150
ARITHMETIC = Path(__file__).parents[3] / "launch/runs/modular_addition.yaml"
KINDS = ("word", "span", "random")


@pytest.fixture(scope="module")
def tokenizers(synthetic, tmp_path_factory):
    texts = [text for translation in synthetic.translations for text in translation.texts]
    folder = tmp_path_factory.mktemp("tokenizers")
    char = train_sentencepiece(texts, folder / "char", model_type="char")
    return {"bytes": load_tokenizer("bytes"), "char": char, "bpe": train_sentencepiece(texts, folder / "bpe", 400, 1.0)}


@pytest.fixture(scope="module")
def token_sets(synthetic, tokenizers, tmp_path_factory):
    root, split = tmp_path_factory.mktemp("sets"), split_verses(synthetic)
    return {name: compile_token_set(synthetic, [], each, split, root) for name, each in tokenizers.items()}


@pytest.fixture(scope="module")
def task_of(tokenizers, token_sets):
    def build(tokenizer="bytes", seed=0, connectives=None, **masking):
        token_set = token_sets[tokenizer]
        config = MaskingConfig(**masking)
        masks = Masks(config, token_set, tokenizer=tokenizers[tokenizer], connectives=connectives or {})
        return LanguageModelling(token_set, SEQ_LEN, seed, masks=masks)

    return build


def pairs(task, positions=range(N), step=0):
    """The tokens of a batch [B, T] before and after it is corrupted."""
    batch = task.batch(positions)
    return batch.inputs["tokens"], task.corrupted(batch, positions, step).inputs["tokens"]


def words_of(task, position):
    """The number of the word that each token of a window is part of, or -1."""
    language, pieces = task._pieces(position, SEQ_LEN)
    return number_words_of_window(task.masks.streams[language], pieces, WORD, task.masks.tokenizer)


@pytest.mark.parametrize("tokenizer", ["bytes", "char", "bpe"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.15, 0.5])
def test_the_share_of_the_tokens_is_reached_and_nothing_else_changes(task_of, kind, tokenizer, share):
    before, after = pairs(task_of(tokenizer, kind=kind, share=share))
    masked = before != after
    of_window = masked.double().mean(1)
    assert of_window.mean().item() == pytest.approx(share, abs=4 * of_window.std().item() / N**0.5 + 1e-4)
    assert set(after[masked].tolist()) == {MASK_ID}
    assert not (before == MASK_ID).any(), "no text holds what stands for a masked token"


@pytest.mark.parametrize("tokenizer", ["bytes", "char", "bpe"])
@pytest.mark.parametrize("kind", ["word", "span"])
def test_words_are_masked_whole_and_specials_never(task_of, kind, tokenizer):
    task = task_of(tokenizer, kind=kind, share=0.3)
    before, after = (tokens.numpy() for tokens in pairs(task))
    for position in range(N):
        words, masked = words_of(task, position), before[position] != after[position]
        for word in range(words.max() + 1):
            assert len(set(masked[words == word].tolist())) <= 1
        assert not masked[before[position] < 4].any()
        if kind == "word":
            assert not masked[words < 0].any()


def test_a_span_is_a_run_of_words_with_what_stands_between_them(task_of):
    task = task_of(kind="span", share=0.3)
    before, after = (tokens.numpy() for tokens in pairs(task))
    n_words = []
    for position in range(N):
        masked = np.flatnonzero(before[position] != after[position])
        for run in np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1)[: len(masked)]:
            words = words_of(task, position)[run]
            n_words.append(len(np.unique(words[words >= 0])))
    assert np.mean(n_words) > 2
    assert max(n_words) > 5


def test_a_word_is_masked_at_the_earliest_turn_of_a_span_that_covers_it():
    lengths = np.array([1, 3, 1, 2, 1, 10, *[1] * 11])  # n words or fewer: with the probability 1 - 0.8^n of 1 - 0.8^10
    turns = np.array([4, 1, 0, 2, 3, 5, *[6] * 11])
    of_length = (1 - 0.8 ** (lengths - 0.5)) / (1 - 0.8**10)
    assert _earliest_cover(turns, of_length).tolist() == [4, 1, 0, 1, 2, 5, *[5] * 9, 6, 6]


def test_spans_have_the_lengths_of_span_bert():
    first_is_earliest, of_length = np.arange(20), np.zeros(20)
    n_words = []
    for of_length[0] in np.linspace(0, 1, 1000, endpoint=False):
        n_words.append(int((_earliest_cover(first_is_earliest, of_length) == 0).sum()))
    assert np.mean(n_words) == pytest.approx(3.8, abs=0.01)
    assert max(n_words) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_a_pure_function_of_seed_and_position(task_of, kind):
    task, again, other = (task_of(kind=kind, seed=seed) for seed in (0, 0, 1))
    far = range(10**7, 10**7 + 4)
    _, expected = pairs(task, far)
    assert torch.equal(pairs(again, [10**7 + 2])[1][0], expected[2])
    assert not torch.equal(pairs(other, far)[1] == MASK_ID, expected == MASK_ID)
    next_epoch = range(task.sequences_per_epoch, task.sequences_per_epoch + 4)
    assert not torch.equal(pairs(task, next_epoch)[1] == MASK_ID, pairs(task, range(4))[1] == MASK_ID)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_sees_the_same_masks_of_a_step_wherever_it_is(task_of, world_size):
    """A run that has left samples out is at a later position than its steps say."""
    task = task_of(kind="word", ramp=100)
    mixture = Mixture.begin({"lm": 1}, 4, seed=0)
    sizes = {"global_batch_size": 8, "micro_batch_size": 4 // world_size, "world_size": world_size}
    ranks = [
        [
            batch.inputs["tokens"]
            for _, batch in micro_batches(mixture, {"lm": task}, 8 * 30, step=20, rank=rank, **sizes)
        ]
        for rank in range(world_size)
    ]
    together = torch.cat([tokens for micro_step in zip(*ranks, strict=True) for tokens in micro_step])
    assert torch.equal(together, pairs(task, range(240, 248), step=20)[1])
    assert (together == MASK_ID).any()


def test_the_targets_stay(task_of):
    task = task_of(kind="random")
    batch = task.batch(range(8))
    corrupted = task.corrupted(batch, range(8), 0)
    assert corrupted.labels is batch.labels
    assert corrupted.n_tokens == batch.n_tokens
    assert torch.equal(task.batch(range(8)).inputs["tokens"], batch.inputs["tokens"]), "the text itself is not touched"


def test_the_share_has_phases_by_step(task_of):
    masks = task_of(kind="word", share=0.2, start=10, ramp=4, end=20).masks
    shares = {step: masks.share(step) for step in (0, 9, 10, 11, 12, 13, 14, 19, 20, 10**6)}
    assert list(shares.values()) == pytest.approx([0, 0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0, 0])
    assert task_of(kind="word", share=0.2).masks.share(0) == task_of(kind="word", share=0.2).masks.share(10**9) == 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_early_in_the_ramp_is_masked_later_too(task_of, kind):
    task = task_of(kind=kind, share=0.4, ramp=10)
    masks = [(pairs(task, step=step)[1] == MASK_ID) for step in (0, 4, 9)]
    assert [mask.double().mean().item() for mask in masks] == pytest.approx([0.04, 0.2, 0.4], rel=0.2)
    for earlier, later in pairwise(masks):
        assert not (earlier & ~later).any()


def test_outside_of_its_phase_the_batch_is_the_very_same(task_of):
    task = task_of(kind="word", start=10)
    batch = task.batch(range(4))
    assert task.corrupted(batch, range(4), 9) is batch
    assert task.corrupted(batch, range(4), 10) is not batch


def test_some_sequences_may_stay_whole(task_of):
    task = task_of(kind="random", sequences=0.5)
    before, after = pairs(task)
    whole = (before == after).all(1)
    assert whole.float().mean().item() == pytest.approx(0.5, abs=0.1)
    always = pairs(task_of(kind="random"))[1]
    assert torch.equal(after[~whole], always[~whole]), "the others are masked as if all were"


def test_a_drawn_share_is_even_between_0_and_the_share(task_of):
    before, after = pairs(task_of(kind="random", share=0.5, share_of_each="drawn"), range(400))
    quarters = np.histogram((before != after).double().mean(1), bins=4, range=(0, 0.5))[0]
    assert quarters.min() > 70


def test_with_a_weight_the_rows_stand_there_as_they_are_and_masked_and_the_loss_is_the_weighted_sum(task_of):
    task, alone = (task_of(kind="random", share=0.5, loss_weight=weight) for weight in (0.4, 0))
    whole, masked = (task_with.corrupted(task_with.batch(range(4)), range(4), 0) for task_with in (task, alone))
    tokens, targets = whole.inputs["tokens"], whole.labels["targets"]
    assert torch.equal(tokens[:4], task.batch(range(4)).inputs["tokens"])
    assert torch.equal(tokens[4:], masked.inputs["tokens"])
    assert torch.equal(whole.inputs["targets"], targets.repeat(2, 1))
    assert whole.n_tokens == masked.n_tokens == targets.numel()
    logits = torch.randn(8, SEQ_LEN, 260, generator=torch.Generator().manual_seed(0))
    clean, extra = (F.cross_entropy(part.flatten(0, 1), targets.flatten()) for part in logits.split(4))
    losses = task.losses(logits, whole)
    torch.testing.assert_close(losses.total, clean + 0.4 * extra)
    torch.testing.assert_close(losses.reported, clean)
    torch.testing.assert_close(losses.extra["masked_loss"], extra)
    nats = F.cross_entropy(logits.movedim(-1, 1), targets.repeat(2, 1), reduction="none")  # of a loss in chunks
    torch.testing.assert_close(task.loss(nats, whole)[0], losses.total)


@pytest.mark.parametrize("kind", KINDS)
def test_connectives_are_drawn_as_often_as_their_weight_says(tmp_path, kind):
    """Of words of one length, so that no other word is shorter or longer."""
    generator = np.random.default_rng(0)
    words = ["and", "but", *(f"w{i:02}" for i in range(18))]
    rows = {1001001 + i: (" ".join(generator.choice(words, 30)), 0) for i in range(20)}
    corpus = Corpus((Translation.from_rows("x", "en", rows),))
    tokenizer = load_tokenizer("bytes")
    token_set = compile_token_set(corpus, [], tokenizer, split_verses(corpus, chapter_fraction=0), tmp_path)
    config = MaskingConfig(kind=kind, share=0.02, connectives_weight=8)
    masks = Masks(config, token_set, tokenizer=tokenizer, connectives={"en": ["and", "but"]})
    task = LanguageModelling(token_set, SEQ_LEN, 0, masks=masks)
    before, after = (tokens.numpy() for tokens in pairs(task, range(800)))
    masked = before != after
    begins_connective = np.isin(before, [ord("a") + 4, ord("b") + 4])
    begins_other = before == ord("w") + 4
    rates = masked[begins_connective].mean(), masked[begins_other].mean()
    if kind == "span":  # a span goes on over words of any weight
        assert 1.5 < rates[0] / rates[1] < 8
    else:
        assert rates[0] / rates[1] == pytest.approx(8, rel=0.25)


def test_an_evaluation_is_never_masked(task_of, token_sets):
    task = task_of(kind="word", share=0.9)
    context = TaskContext(
        data=token_sets["bytes"], seq_len=SEQ_LEN, micro_batch_size=4, rows_per_pack=1, seed=0, masks=task.masks
    )
    windows = LanguageModelling.build(context).evaluation(context).sums.windows
    assert not (windows.inputs["tokens"] == MASK_ID).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--masking.kind", "words"], "masking.kind"),
        (["--masking.share", "0.3"], "masking.share: needs masking.kind as well; give that, or leave it out"),
        (["--masking.kind", "word", "--masking.share", "1"], "masking.share: 1.0 is not allowed; give a share above 0"),
        (["--masking.kind", "word", "--masking.sequences", "0"], "masking.sequences: 0.0 is not allowed; give a share"),
        (["--masking.kind", "word", "--masking.ramp", "-1"], "masking.ramp: -1 is not allowed; give zero or more"),
        (
            ["--masking.kind", "word", "--masking.start", "9", "--masking.end", "9"],
            "masking.end: 9 is not allowed; give a step after masking.start, or 0",
        ),
        (
            ["--masking.kind", "word", "--masking.connectives_weight", "0"],
            "masking.connectives_weight: 0.0 is not allowed; give a positive number",
        ),
        (
            ["--masking.kind", "word", "--tasks.coherence", "1", "--tasks.lm", "0"],
            "masking.kind: is of the task lm; give tasks.lm a weight above 0",
        ),
        (
            ["--masking.kind", "word", "--masking.loss_weight", "-1"],
            "masking.loss_weight: -1.0 is not allowed; give zero or more",
        ),
        (
            ["--masking.kind", "word", "--masking.loss_weight", "0.4", "--masking.sequences", "0.5"],
            "masking.sequences: 0.5, but with masking.loss_weight every sequence is read both as it is and masked",
        ),
        (["--masking.loss_weight", "0.4"], "masking.loss_weight: needs masking.kind as well"),
        (["--config", str(ARITHMETIC), "--masking.kind", "word"], "a run without text; leave out masking.kind"),
    ],
)
def test_masking_that_makes_no_sense_is_one_line(flags, message):
    with pytest.raises(UserError) as caught:
        train_arguments(flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

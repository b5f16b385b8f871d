"""Each verse task alone is learnt on the synthetic corpus, whose rules words in order tell and bags of bytes do not."""

import numpy as np
import pytest
import torch
from helpers.built_in_heads import heads_of
from scipy.optimize import minimize

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.model.multitask import build_model
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.contrast import Contrast
from genesis_ds.tasks.cross_reference import CrossReference
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece

pytestmark = pytest.mark.slow
SEQ_LEN, ROWS, VOCABULARY = 128, 8, 1000
LR = 3e-3
STEPS = {"coherence": 2000, "cross_reference": 1600, "paraphrase": 300}
CORPUS = synthetic_corpus(chapters_per_book=20, verses_per_chapter=13)


@pytest.fixture(scope="module")
def token_sets(tmp_path_factory):
    """By task and tokenizer: bpe, in which a word is a token, and bytes. One language where a task needs no more."""
    root = tmp_path_factory.mktemp("sets")
    model = root / "tokenizer.model"
    train_sentencepiece(
        (text for translation in CORPUS.translations for text in translation.texts), model, VOCABULARY, 0.9995
    )
    tokenizers = {"bpe": load_tokenizer("bpe", str(model)), "bytes": load_tokenizer("bytes")}
    split = split_verses(CORPUS)
    return {
        (task, name): compile_token_set(CORPUS, [] if task == "paraphrase" else ["qaa"], tokenizer, split, root)
        for task in STEPS
        for name, tokenizer in tokenizers.items()
    }


def make(name, token_set, tiers):
    shape = VerseTable(token_set, tiers, SEQ_LEN), SEQ_LEN, ROWS, 0
    if name == "coherence":
        return Coherence(*shape)
    if name == "cross_reference":
        return CrossReference(*shape, links=CORPUS.cross_references, contrast=Contrast())
    return Paraphrase(*shape, contrast=Contrast())


def accuracy_after_training(name, token_set, shuffled):
    """On validation verses."""
    train, validation = (make(name, token_set, tiers) for tiers in (["train"], ["val_chapter", "val_book"]))
    torch.manual_seed(0)
    config = ModelConfig(n_layers=2, dim=64, n_heads=2, intermediate_size=128, vocab_size=VOCABULARY)
    model = build_model(config, ActivationCheckpointingConfig(), lambda: heads_of((name,), config.dim, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    n = STEPS[name]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=n, pct_start=0.05)
    for step in range(n):
        batch = train.batch(range(step * ROWS, (step + 1) * ROWS))
        if shuffled:
            shuffle(batch)
        loss, _ = train.loss(model(name, **batch.inputs).output, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        batches = [validation.batch(range(start, start + ROWS)) for start in range(0, 10 * ROWS, ROWS)]
        right = torch.cat([validation.loss(model(name, **batch.inputs).output, batch)[1] for batch in batches])
    return right.float().mean().item()


def shuffle(batch):
    """The labels of pairs, or which verse of a triplet is the positive, at random."""
    n, k = batch.inputs["examples"].shape
    if k == 2:
        batch.labels["kinds"] = batch.labels["kinds"][torch.randperm(n)]
    else:
        turned = torch.rand(n) < 0.5
        batch.inputs["examples"][turned] = batch.inputs["examples"][turned][:, [0, 2, 1]]


@pytest.mark.parametrize("name", STEPS)
def test_a_task_is_learnt_to_95_percent_and_not_from_shuffled_labels(name, token_sets):
    assert accuracy_after_training(name, token_sets[name, "bpe"], shuffled=False) > 0.95
    assert accuracy_after_training(name, token_sets[name, "bpe"], shuffled=True) < 0.6


@pytest.mark.parametrize("name", STEPS)
def test_bags_of_bytes_do_not_tell(name, token_sets):
    token_set = token_sets[name, "bytes"]
    features, labels = bags_of_pairs(make(name, token_set, ["train"]))
    unseen, expected = bags_of_pairs(make(name, token_set, ["val_chapter", "val_book"]))
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    weights = logistic_regression((features - mean) / deviation, labels)
    accuracy = (((unseen - mean) / deviation @ weights[:-1] + weights[-1] > 0) == expected).mean()
    assert accuracy < 0.6


def bags_of_pairs(task, n=6000):
    """Byte counts of two verses side by side [n, 520]: of pairs, and of an anchor with its positive or negative."""
    examples = task.draw("bags", n)
    verses, labels = examples.verses, examples.kinds == 0
    if verses.shape[1] == 3:
        labels = np.arange(len(verses)) % 2 == 0
        verses = np.stack([verses[:, 0], np.where(labels, verses[:, 1], verses[:, 2])], axis=1)
    bags = {i: np.bincount(task.verses.tokens(i), minlength=260) for i in np.unique(verses).tolist()}
    return np.array([np.concatenate([bags[i] for i in pair]) for pair in verses.tolist()], float), labels


def logistic_regression(features, labels):
    """Weights and, last, the intercept; ridge 1 over all examples."""
    signs = np.where(labels, 1.0, -1.0)
    inputs = np.hstack([features, np.ones((len(features), 1))])

    def loss_and_gradient(weights):
        margins = signs * (inputs @ weights)
        gradient = -inputs.T @ (signs / (1 + np.exp(np.clip(margins, -500, 500)))) + weights
        return np.logaddexp(0, -margins).sum() + weights @ weights / 2, gradient

    return minimize(loss_and_gradient, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x

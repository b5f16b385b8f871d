"""What the tasks on verses make of the model's output."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.contrast import Contrast
from genesis_ds.tasks.cross_reference import CrossReference
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tasks.verse_task import Examples

SHAPE = 256, 4, 0


@pytest.fixture(scope="module")
def contrast_task(synthetic, train_verses):
    def build(name, **options):
        contrast = Contrast(**options)
        if name == "paraphrase":
            return Paraphrase(train_verses, *SHAPE, contrast=contrast)
        return CrossReference(train_verses, *SHAPE, links=synthetic.cross_references, contrast=contrast)

    return build


def vectors(*angles):
    """Unit vectors in a plane at these angles in degrees, of the shape given by their nesting."""
    radians = torch.tensor(angles) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def test_coherence_is_weighted_binary_cross_entropy(train_verses):
    task = Coherence(train_verses, *SHAPE)
    labels = {"kinds": torch.tensor([0, 3, 0]), "weights": torch.tensor([0.5, 0.25, 0.25])}
    loss, correct = task.loss(torch.tensor([2.0, 1.0, 0.0]), Batch({}, labels))
    expected = 0.5 * math.log1p(math.exp(-2)) + 0.25 * math.log1p(math.exp(1)) + 0.25 * math.log(2)
    assert loss.item() == pytest.approx(expected)
    assert correct.tolist() == [True, False, False]


def test_margin_loss_is_that_of_the_cosines(contrast_task):
    task = contrast_task("paraphrase", margin=0.2)
    output = vectors([0.0, 0.0, 90.0], [0.0, 60.0, 60.0], [0.0, 90.0, 60.0])
    labels = {"weights": torch.tensor([0.5, 0.25, 0.25])}
    loss, correct = task.loss(output, Batch({}, labels))
    assert loss.item() == pytest.approx(0.5 * 0 + 0.25 * 0.2 + 0.25 * (0.2 + 0.5))
    assert correct.tolist() == [True, False, False]


def test_in_batch_loss_compares_with_rivals_alone(contrast_task):
    task = contrast_task("paraphrase", loss="in_batch", temperature=0.5)
    output = vectors([0.0, 0.0, 90.0], [90.0, 30.0, 0.0])
    rivals = torch.tensor([[True, False, True, True], [True, True, False, True]])
    loss, correct = task.loss(output, Batch({}, {"weights": torch.tensor([0.75, 0.25]), "rivals": rivals}))
    first = math.log(math.exp(2) + math.exp(0) + math.exp(2)) - 2
    second = math.log(math.exp(0) + math.exp(1) + math.exp(0)) - 1
    assert loss.item() == pytest.approx(0.75 * first + 0.25 * second)
    assert correct.tolist() == [True, True]


@pytest.mark.parametrize("name", ["cross_reference", "paraphrase"])
def test_rivals_are_of_the_positives_language_and_pack_and_unrelated(synthetic, contrast_task, train_verses, name):
    task = contrast_task(name, loss="in_batch")
    links = synthetic.cross_references
    pairs = set(zip(links.from_ids.tolist(), links.to_ids.tolist(), strict=True))
    pairs |= {(b, a) for a, b in pairs}

    def related(anchor, other):
        if name == "paraphrase" or anchor == other:
            return anchor == other
        hop = [b for a, b in pairs if a == anchor]
        return other in hop or any((middle, other) in pairs for middle in hop)

    few = task.draw("few", 3).verses
    examples = Examples(np.concatenate([few, few[:, [1, 0, 2]]] * 2), np.zeros(12, int))
    packs = task.packer.pack(examples)
    batch = task.collate(packs)
    verses = np.concatenate([packed.examples.verses for packed in packs])
    ids, languages = train_verses.verse_ids[verses], train_verses.languages[verses]
    columns, language_of = [*ids[:, 1], *ids[:, 2]], [*languages[:, 1], *languages[:, 2]]
    pack = batch.labels["pack"].tolist()
    assert len(set(pack)) > 1
    assert len(set(languages[:, 1])) > 1

    def is_rival(i, j):
        if pack[i] != pack[j % 12] or language_of[j] != language_of[i]:
            return False
        return j == i or not related(int(ids[i, 0]), int(columns[j]))

    expected = [[is_rival(i, j) for j in range(24)] for i in range(12)]
    assert batch.labels["rivals"].tolist() == expected
    assert "rivals" not in contrast_task(name).collate(packs).labels


@pytest.mark.parametrize("name", ["cross_reference", "paraphrase"])
def test_the_language_of_a_verse_alone_gains_nothing(contrast_task, train_verses, name):
    """Vectors that say nothing but the language give the loss of a guess among the rivals."""
    task = contrast_task(name, loss="in_batch")
    packs = task.packer.pack(task.draw("some", 30))
    batch = task.collate(packs)
    languages = train_verses.languages[np.concatenate([packed.examples.verses for packed in packs])]
    output = F.one_hot(torch.from_numpy(languages).long(), len(train_verses.labels)).float()
    guess = batch.labels["rivals"].sum(1).log()
    assert len(set(languages[:, 1])) > 1
    assert guess.max() > 0
    assert task.loss(output, batch)[0].item() == pytest.approx((batch.labels["weights"] * guess).sum().item())


@pytest.mark.parametrize("loss", ["margin", "in_batch"])
def test_the_loss_of_a_batch_is_the_mean_over_its_packs(contrast_task, loss):
    task = contrast_task("cross_reference", loss=loss)
    together = task.batch(range(0, 12))
    apart = [task.batch(range(start, start + 4)) for start in (0, 4, 8)]
    sizes = [len(batch.labels["kinds"]) for batch in apart]
    output = F.normalize(torch.randn(sum(sizes), 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    losses = [task.loss(part, batch)[0] for part, batch in zip(output.split(sizes), apart, strict=True)]
    assert task.loss(output, together)[0].item() == pytest.approx(sum(losses).item() / 3)

"""What all tasks on verses have in common: the table they draw from, their packs and batches."""

import zlib

import numpy as np
import pytest
import torch

from genesis_ds.corpus.splits import split_verses
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.model.documents import PADDING
from genesis_ds.tasks.base import Unavailable
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.contrast import Contrast
from genesis_ds.tasks.cross_reference import CrossReference
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tasks.verse_task import BLOCK, Examples, Packer, rows_per_pack
from genesis_ds.tokenizer import load_tokenizer

NAMES = ["coherence", "cross_reference", "paraphrase"]
SEQ_LEN, ROWS = 256, 4


@pytest.fixture(scope="module")
def build(synthetic, train_verses):
    def build(name, seed=0, contrast=None, verses=train_verses):
        contrast = contrast or Contrast()
        shape = verses, SEQ_LEN, ROWS, seed
        if name == "coherence":
            return Coherence(*shape)
        if name == "paraphrase":
            return Paraphrase(*shape, contrast=contrast)
        return CrossReference(*shape, links=synthetic.cross_references, contrast=contrast)

    return build


def pack_rows(*numbers):
    return range(numbers[0] * ROWS, (numbers[-1] + 1) * ROWS)


def documents_of(batch):
    """The token ids of each document of a batch."""
    numbers, tokens = batch.inputs["documents"].numbers, batch.inputs["tokens"]
    return [tokens[numbers == document].tolist() for document in range(batch.inputs["documents"].n)]


def test_the_table_holds_the_verses_of_its_tiers_in_order(synthetic, synthetic_set):
    verses = VerseTable(synthetic_set, ["val_book", "train"], max_length=60)
    split, tokenizer = split_verses(synthetic), load_tokenizer("bytes")
    tiers = np.union1d(split.ids("train"), split.ids("val_book"))
    expected = [
        (language, identifier, text)
        for language, translation in enumerate(synthetic.translations)
        for identifier, text in zip(translation.verse_ids.tolist(), translation.texts, strict=True)
        if identifier in tiers
    ]
    kept = [row for row in expected if len(row[2].encode()) <= 60]
    held = [tokenizer.decode(verses.tokens(index).tolist()) for index in range(len(verses))]
    assert list(zip(verses.languages.tolist(), verses.verse_ids.tolist(), held, strict=True)) == kept
    assert [len(text.encode()) for text in held] == verses.lengths.tolist()
    assert verses.n_too_long == len(expected) - len(kept) > 0


def test_verses_are_found_by_language_and_id(train_verses):
    language, verse_id = train_verses.languages.astype(int), train_verses.verse_ids
    assert train_verses.find(language, verse_id).tolist() == list(range(len(train_verses)))
    absent = [[1, 8001001], [verse_id[0], 67001001]]  # Ruth is validation
    assert train_verses.find(2, absent).tolist() == [[-1, -1], [int(np.argmax(language == 2)), -1]]


def test_a_batch_holds_each_verse_whole_in_a_row_of_its_pack(train_verses):
    packer = Packer(train_verses, SEQ_LEN, ROWS)
    index = np.random.default_rng(0).integers(len(train_verses), size=(60, 3))
    packs = packer.pack(Examples(index, np.arange(60) % 2))
    batch = packer.collate(packs)
    order = np.concatenate([packed.numbers for packed in packs])
    assert sorted(order) == list(range(60))
    assert batch.labels["kinds"].tolist() == (order % 2).tolist()
    assert batch.inputs["examples"].tolist() == np.arange(180).reshape(60, 3).tolist()
    assert documents_of(batch) == [train_verses.tokens(verse).tolist() for verse in index[order].flat]
    documents = batch.inputs["documents"]
    padding = documents.numbers == PADDING
    assert batch.n_tokens == (~padding).sum() == train_verses.lengths[index].sum()
    assert not batch.inputs["tokens"][padding].any()
    assert (padding[:, 1:] >= padding[:, :-1]).all(), "padding stands at the end"
    for document in range(documents.n):
        rows, columns = (documents.numbers == document).nonzero().T
        assert len(set(rows.tolist())) == 1
        assert (columns.diff() == 1).all()
        assert rows[0] // ROWS == batch.labels["pack"][document // 3]
    assert documents.positions[~padding].max() == train_verses.lengths[index].max() - 1


def test_a_batch_weighs_its_packs_equally_and_the_examples_of_a_pack_too(build):
    labels = build("coherence").batch(pack_rows(0, 2)).labels
    sizes = torch.bincount(labels["pack"])
    assert len(set(sizes.tolist())) > 1, "otherwise this test is too weak"
    assert torch.allclose(labels["weights"], 1 / (3 * sizes[labels["pack"]].float()))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_does_not_depend_on_who_asks_for_it_when_or_with_what(build, name):
    numbers = [3, BLOCK - 1, BLOCK, 1000 * BLOCK + 5]
    one, other = build(name), build(name)
    alone = {number: one.batch(pack_rows(number)) for number in numbers}
    for number in reversed(numbers):
        both = other.batch(pack_rows(number, number + 1))
        assert torch.equal(both.inputs["tokens"][:ROWS], alone[number].inputs["tokens"])
        first = both.labels["pack"] == 0
        assert torch.equal(both.labels["kinds"][first], alone[number].labels["kinds"])
    assert not torch.equal(build(name, seed=1).batch(pack_rows(3)).inputs["tokens"], alone[3].inputs["tokens"])


@pytest.mark.parametrize("name", NAMES)
def test_examples_seldom_repeat(build, name):
    batch = build(name).batch(pack_rows(0, 2 * BLOCK - 1))
    documents = documents_of(batch)
    examples = [str([documents[number] for number in numbers]) for numbers in batch.inputs["examples"]]
    assert len(set(examples)) > 0.9 * len(examples)


def test_what_is_drawn_never_changes(build):
    """These are the values of the first release: others would break the resumption of every run."""
    drawn = {name: zlib.crc32(build(name).batch(pack_rows(0, 1)).inputs["tokens"].numpy()) for name in NAMES}
    assert drawn == {"coherence": 902506527, "cross_reference": 3828767423, "paraphrase": 2736387605}


@pytest.mark.parametrize("name", NAMES)
def test_no_example_of_training_touches_a_verse_outside_train(synthetic, build, train_verses, name):
    split, tokenizer = split_verses(synthetic), load_tokenizer("bytes")
    inside, outside = set(), set()
    for translation in synthetic.translations:
        for identifier, text in zip(translation.verse_ids, translation.texts, strict=True):
            (inside if identifier in split.ids("train") else outside).add(text)
    task, seen = build(name), 0
    for block in range(20):
        batch = task.batch(pack_rows(block * BLOCK, (block + 1) * BLOCK - 1))
        texts = [tokenizer.decode(document) for document in documents_of(batch)]
        assert inside.issuperset(texts)
        assert not outside.intersection(texts)
        seen += len(texts)
    assert seen > len(train_verses)


def test_examples_too_long_for_a_pack_are_counted_and_it_is_an_error_if_all_are(train_verses):
    shortest, longest = np.sort(train_verses.lengths)[[0, -1]]
    assert Coherence(train_verses, int(2 * longest), 1, 0).share_too_long == 0
    assert 0.2 < Coherence(train_verses, int(np.median(train_verses.lengths)) * 2, 1, 0).share_too_long < 0.8
    with pytest.raises(Unavailable, match="no 2 verses of an example fit together in 1 rows"):
        Coherence(train_verses, int(2 * shortest - 1), 1, 0)


def test_a_pack_has_the_fewest_rows_with_2048_tokens_that_divide_a_micro_batch():
    shapes = [(512, 8), (512, 6), (512, 2), (1024, 8), (2048, 3), (4096, 1), (256, 12), (700, 9)]
    assert [rows_per_pack(*shape) for shape in shapes] == [4, 6, 2, 2, 1, 1, 12, 3]

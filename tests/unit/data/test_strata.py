import math

import numpy as np
import pytest
import torch

from genesis_ds.config import EvaluationConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.corpus.words import WORD
from genesis_ds.data.lexicon import Lexicon
from genesis_ds.data.strata import CONNECTIVE, COPIED, NAME, NOVEL, NUMERAL, STRATA, Strata
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.disk import NotWritten
from genesis_ds.hooks.write.measure_lines import evaluation_lines
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import BitsPerByte
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece

GENESIS, RUTH = 1001001, 8001001
TRAIN = [
    "And Noah went out of the ark, and Noah built an altar.",
    "The sons went out of the ark.",
    "Then Noah, the man, saw two doves.",
    "and the doves saw Noah.",
]
VALIDATION = ["Then said Ruth: Boaz went out of the ark therefore with seven men", "Naomi saw the house. And Boaz saw."]


def compiled(folder, kind="bytes", language="en", repeat=1):
    trained = kind != "bytes"
    tokenizer = train_sentencepiece(TRAIN * 9, folder / "m", 300, model_type=kind) if trained else load_tokenizer(kind)
    rows = {GENESIS + n: (text, 0) for n, text in enumerate(TRAIN * repeat)}
    rows |= {RUTH + n: (text, 0) for n, text in enumerate(VALIDATION * repeat)}
    corpus = Corpus((Translation.from_rows("x", language, rows),))
    split = split_verses(corpus, chapter_fraction=0, duplicate_threshold=2)
    return compile_token_set(corpus, [], tokenizer, split, folder), tokenizer


def words_of(strata, tier, language="en"):
    """Stratum -> its words, in order, read from the tokens that are labelled so."""
    stream = strata.token_set.stream(tier, language)
    found = strata.label(tier, language, strata.lexicon(language), np.arange(len(stream.starts)))
    assert not found.strata[-1].any()
    words = [
        strata.tokenizer.decode(stream.tokens[found.words == number].tolist()).strip()
        for number in range(max(found.words) + 1)
    ]
    return {
        name: [word for word, inside in zip(words, found.strata, strict=False) if inside[s]]
        for s, name in enumerate(STRATA)
    }


@pytest.mark.parametrize("kind", ["bytes", "char", "bpe"])
def test_words_of_validation_have_the_strata_that_reading_gives(tmp_path, kind):
    found = words_of(Strata(*compiled(tmp_path, kind), {"en": ["and", "therefore"]}), "val_book")
    assert found[COPIED] == ["went", "out", "of", "the", "ark"]
    assert found[NAME] == ["Ruth", "Boaz", "Boaz"], "of the words with a capital those that have it inside a clause"
    assert found[NUMERAL] == ["seven"]
    assert found[CONNECTIVE] == ["therefore", "And"]
    assert sorted(found[COPIED] + found[NOVEL]) == sorted(WORD.findall(" ".join(VALIDATION)))


def test_a_run_of_training_counts_there_where_it_stands_twice(tmp_path):
    found = words_of(Strata(*compiled(tmp_path), {}), "train")
    assert found[COPIED] == ["went", "out", "of", "the", "ark"] * 2
    assert found[CONNECTIVE] == []


@pytest.mark.parametrize("language", ["de", "de-CH"])
def test_a_language_that_capitalises_nouns_has_no_names(tmp_path, language):
    assert words_of(Strata(*compiled(tmp_path, language=language), {}), "val_book", language)[NAME] == []


def test_what_has_been_learnt_of_a_text_is_read_from_the_disk_and_is_the_same(tmp_path, monkeypatch):
    strata = Strata(*compiled(tmp_path), {"en": ["and"]})
    anew = {tier: words_of(strata, tier) for tier in ("train", "val_book")}
    strata.learn()
    (path,) = tmp_path.rglob("en.lexicon.npz")
    monkeypatch.setattr(Lexicon, "of", None)  # nobody reads the text again
    strata.learn()
    assert {tier: words_of(strata, tier) for tier in anew} == anew
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:-30])
    assert words_of(strata, "val_book") == anew["val_book"]
    strata.learn()
    assert Lexicon.read(path) is not None


def test_a_text_whose_directory_takes_no_file_is_read_with_a_warning(tmp_path, monkeypatch, capsys):
    strata = Strata(*compiled(tmp_path), {})

    def full(path):
        raise NotWritten(f"{path}: No space left on device")

    monkeypatch.setattr("genesis_ds.data.lexicon.replacing", full)
    strata.learn()
    assert "en.lexicon.npz: No space left on device; every process of a run reads" in capsys.readouterr().err
    assert words_of(strata, "val_book")[COPIED] == ["went", "out", "of", "the", "ark"]


class Oracle:
    """A model that is certain of the tokens of one stratum, and says of the others that all 260 are as likely."""

    def sums(self, task, batches, measure):
        found = []
        for batch in (make() for make in batches):
            targets = batch.labels["targets"]
            certain = batch.labels["strata"][..., STRATA.index(COPIED)].float()
            logits = torch.zeros(*targets.shape, 260)
            logits.scatter_(-1, targets.clamp(min=0)[..., None], 100 * certain[..., None])
            found.append(measure(logits, batch))
        return [sum(values) for values in zip(*found, strict=True)]


def test_each_stratum_has_its_own_loss_and_curve_where_it_has_words_enough(tmp_path):
    token_set, tokenizer = compiled(tmp_path, repeat=10)
    evaluation = BitsPerByte(
        TaskContext(
            data=token_set,
            seq_len=200,
            micro_batch_size=2,
            rows_per_pack=2,
            seed=0,
            evaluation=EvaluationConfig(max_windows=0),
            curves_of="val_book",
            strata=Strata(token_set, tokenizer, {"en": ["and", "therefore"]}),
        )
    )
    found = evaluation(Oracle())
    name = "val/val_book/en/bits_per_byte"
    assert found.metrics[f"{name}/copied"] == pytest.approx(0, abs=1e-6)
    assert found.metrics[f"{name}/name"] == pytest.approx(math.log2(260))
    assert f"{name}/numeral" not in found.metrics, "10 words"
    assert 0 < found.metrics[name] < math.log2(260)
    curves = found.curves()
    assert set(curves) == {"lm/en", "lm/en/copied", "lm/en/name", "lm/en/connective"}, "all of training is copied"
    assert curves["lm/en/connective"][1].loss == pytest.approx(math.log(260))
    (line,) = [line for line in evaluation_lines(found.metrics) if line.startswith(f"  {name}")]
    assert "(copied 0.0000, novel 8.0224, name 8.0224, connective 8.0224)" in line

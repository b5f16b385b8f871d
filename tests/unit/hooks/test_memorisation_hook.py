import dataclasses
import json
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Event, Point
from genesis_ds.config import DataConfig, RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.data.run_data import prepare_data
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.memorisation import MOST, PREFIX, Memorisation, choose_verses, reword
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.write.measure_lines import memorisation_lines
from genesis_ds.model.output import IGNORE
from genesis_ds.tokenizer import load_tokenizer

N_STEPS = 100


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    corpus = synthetic_corpus()
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split_verses(corpus), tmp_path_factory.mktemp("sets"))


@pytest.fixture
def verses(token_set):
    return choose_verses(token_set, "val_chapter", 20, 256)


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.sum_over_ranks", lambda values, on: values)


def hook_on(verses, known, every=1, rewordings=None):
    """The hook of a model that knows these verses [n, PREFIX + MOST] by heart, but not how they begin."""
    next_of = {tuple(verse[: n + 1].tolist()): int(verse[n + 1]) for verse in known for n in range(len(verse) - 1)}

    def model(task, tokens):
        logits = torch.zeros(*tokens.shape, 260)
        for row, ids in zip(logits, tokens.tolist(), strict=True):
            for n in range(PREFIX - 1, len(ids)):
                if (wanted := next_of.get(tuple(ids[: n + 1]), -1)) >= 0:
                    row[n, wanted] = 9.0
        return logits

    calls = ModelCalls(model, Ranks(0, 0, 1), torch.device("cpu"))
    return Memorisation(
        calls, nullcontext, verses, rewordings=rewordings or {}, schedule=EvaluationSchedule(every), rows=7
    )


def test_what_is_known_by_heart_is_extracted_and_told_from_validation(verses):
    train, _ = verses["qaa"]
    hook = hook_on(verses, train[:15])
    record = StepRecord(1, N_STEPS)
    record.curves = {curve: Point(1, 1.0, 2.0) for curve in ("lm/qaa", "lm/qaa/copied", "lm/qab", "coherence/qaa")}
    hook.before_training(0)
    hook.on_step(record)
    found = record.metrics
    assert found["memorisation/qaa/extracted"] == 15 / 20
    assert found["memorisation/qaa/extracted_validation"] == 0
    assert found["memorisation/qaa/membership_auc"] == pytest.approx((15 + 5 / 2) / 20), "ties for what is not known"
    assert found["memorisation/qaa/membership_auc/low"] < 0.8 < found["memorisation/qaa/membership_auc/high"]
    assert found["memorisation/qab/extracted"] == 0
    assert found["memorisation/qab/membership_auc"] == pytest.approx(0.5, abs=0.1)
    shares = {curve: point.memorised_share for curve, point in record.curves.items()}
    assert shares == {"lm/qaa": 0.75, "lm/qaa/copied": 0.75, "lm/qab": 0.0, "coherence/qaa": None}
    line = memorisation_lines(found)[0]
    assert "memorisation/qaa extracted 0.750 (validation 0.000, n 20)  membership_auc 0.875 (0.7" in line
    assert "step 0 0.875" in line


def test_one_wrong_token_is_no_extraction_and_a_short_verse_ends_where_it_ends(token_set):
    verses = choose_verses(token_set, "val_chapter", 20, PREFIX + MOST - 10)
    train = verses["qaa"][0]
    assert train.shape == (20, PREFIX + MOST - 10), "no longer than the model's rows"
    assert (train[:, -1] < 0).any(), "some are shorter than the window"
    changed = train[:12].copy()
    changed[:4, PREFIX] = 7
    record = StepRecord(1, N_STEPS)
    hook_on(verses, changed).on_step(record)
    assert record.metrics["memorisation/qaa/extracted"] == 8 / 20


def test_the_average_of_the_weights_is_asked_too_once_there_is_one(verses):
    train, _ = verses["qaa"]
    hook, of_average, record = hook_on(verses, []), hook_on(verses, train[:15]).model, StepRecord(1, N_STEPS)

    @contextmanager
    def averaged():
        raw, hook.model = hook.model, of_average
        yield True
        hook.model = raw

    hook.averaged = averaged
    hook.on_step(record)
    assert record.metrics["memorisation/qaa/extracted"] == 0
    assert record.metrics["memorisation/qaa/extracted/averaged"] == 15 / 20
    hook.averaged, without = lambda: nullcontext(False), StepRecord(N_STEPS, N_STEPS)
    hook.on_step(without)
    assert not [name for name in without.metrics if name.endswith("/averaged")]


def test_a_verse_that_ends_early_is_measured_alone_as_among_others(token_set):
    verses = choose_verses(token_set, "val_chapter", 20, PREFIX + MOST - 10)
    found = []
    for rows in (1, 7):
        hook, record = hook_on(verses, verses["qaa"][0][:12]), StepRecord(1, N_STEPS)
        hook.rows = rows
        hook.on_step(record)
        found.append(record.metrics)
    assert found[0] == pytest.approx(found[1])


def test_verses_of_all_languages_fill_batches_together(verses):
    hook, calls = hook_on(verses, []), []
    hook.rows, output = 40, hook.model.output
    hook.model.output = lambda task, tokens: calls.append(len(tokens)) or output(task, tokens)
    hook.measured()
    assert calls == [40] * 3, "of 3 languages 20 verses of training and 20 of validation"


def test_it_is_measured_at_every_tenth_evaluation_the_last_and_after_an_event_of_a_whole_text(verses):
    def watch(hook, first, last):
        measured = []
        for step in range(first, last + 1):
            record = StepRecord(step, N_STEPS)
            hook.on_step(record)
            if any(name.startswith("memorisation") for name in record.metrics):
                measured.append(step)
            if step == 42:
                record.events["lm/qaa"] = [Event("plateau", step, {}, "")]
            if step == 62:
                record.events = {curve: [Event("plateau", step, {}, "")] for curve in ("coherence/qaa", "lm/qaa/name")}
        return measured

    expected = [2, 22, 42, 44, 62, 82, 100]
    assert watch(hook_on(verses, [], every=2), 1, N_STEPS) == expected
    hook = hook_on(verses, [], every=2)
    before = watch(hook, 1, 42)
    resumed = hook_on(verses, [], every=2)
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    assert before + watch(resumed, 43, N_STEPS) == expected


def test_losses_far_apart_are_not_called_memorised_before_verses_are_given_back():
    """The real run of docs: training loss 0.6 of the validation loss, and nothing can be extracted."""
    detector = GrokkingDetector()
    events = []
    for number in range(60):
        share = (0.0 if number < 40 else 0.6) if number % 10 == 0 else None
        events += detector.update(Point(100 * number, 0.9, 1.6 + number / 50, memorised_share=share))
    assert [event.step for event in events if event.kind == "memorised"] == [4100]


def test_languages_without_verses_enough_are_left_out(token_set):
    assert choose_verses(token_set, "val_chapter", 20, PREFIX) == {}
    chosen = choose_verses(token_set, "val_chapter", 20, 256)
    assert list(chosen) == token_set.languages
    assert all(len(np.unique(verses, axis=0)) == 20 for parts in chosen.values() for verses in parts)


@pytest.fixture
def reworded(token_set, tmp_path):
    """qaa as a second translation has it, which says everything backwards and lacks one verse in three."""
    qaa, qab, _ = synthetic_corpus().translations
    verses = list(zip(qaa.verse_ids.tolist(), qaa.texts, strict=True))
    backwards = {verse: (text[::-1], 0) for number, (verse, text) in enumerate(verses) if number % 3}
    other = Translation.from_rows("backwards", "qaa", backwards)
    save_corpus(Corpus((dataclasses.replace(qaa, name="forwards"), qab, other)), tmp_path / "corpus")
    data = DataConfig(str(tmp_path / "corpus"), ["forwards", "qab"], str(tmp_path / "sets"))
    text = prepare_data(RunConfig(data=data))
    assert {label: each.name for label, each in text.rewordings.items()} == {"forwards": "backwards"}
    assert prepare_data(RunConfig(data=dataclasses.replace(data, languages=[]))).rewordings == {}, "it is trained on"
    return reword({"qaa": other}, token_set, "val_chapter", 20, 256, tokenizer=text.tokenizer)


def test_knowing_a_verse_by_its_words_is_told_from_knowing_it_in_others(verses, reworded):
    train, other = verses["qaa"][0], reworded["qaa"][0]
    there = other[:, 0] != IGNORE
    assert 8 <= there.sum() < 20
    found = {}
    for known in ("words", "both"):
        learned = train if known == "words" else [*train, *other[there]]
        record = StepRecord(1, N_STEPS)
        hook_on(verses, learned, rewordings=reworded).on_step(record)
        found[known] = {name.removeprefix("memorisation/qaa/"): value for name, value in record.metrics.items()}
    of_words, of_both = found["words"], found["both"]
    assert of_words["wording_gap/n"] == there.sum()
    assert of_words["wording_gap/low"] > 2, "the trained words are cheaper"
    assert of_words["wording_gap_validation"] == pytest.approx(0, abs=0.01)
    assert of_words["membership_auc_reworded"] == pytest.approx(0.5, abs=0.15)
    assert of_both["wording_gap"] == pytest.approx(0, abs=0.5)
    assert of_both["membership_auc_reworded"] == 1
    assert "memorisation/qab/wording_gap" not in record.metrics, "of which there is no other translation"
    assert "wording_gap 0." in memorisation_lines(record.metrics)[0]

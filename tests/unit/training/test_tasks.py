import json
from dataclasses import replace

import pytest

from genesis_ds.config import BatchConfig, RunConfig, VerseTasksConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.run_length import run_length
from genesis_ds.training.tasks import describe, open_tasks

ONE, TWO = Ranks(0, 0, 1), Ranks(0, 0, 2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    corpus = synthetic_corpus()
    split, root = split_verses(corpus), tmp_path_factory.mktemp("sets")
    languages = {"all": [], "one": ["qaa"]}
    tokenizer = load_tokenizer("bytes")
    sets = {key: compile_token_set(corpus, few, tokenizer, split, root) for key, few in languages.items()}
    return {key: Text(tokenizer, token_set, corpus.cross_references) for key, token_set in sets.items()}


def run(micro=4, slot=None, **weights):
    batch = BatchConfig(seq_len=128, global_batch_size=16, micro_batch_size=micro)
    return RunConfig(batch=batch, tasks=weights, verse_tasks=VerseTasksConfig(slot_sequences=slot))


def test_without_weights_the_default_mixture_is_trained(texts):
    training = open_tasks(run(), texts["all"], ONE)
    assert describe(training.mixture) == (
        "lm 28, coherence 6, cross_reference 3, paraphrase 3 of 40 slots of 4 sequences"
    )
    assert training.heads == ("coherence", "cross_reference", "paraphrase")
    assert training.notices == []


def test_a_task_that_the_corpus_does_not_allow_is_left_out_once_and_by_name(texts):
    training = open_tasks(run(), replace(texts["one"], links=CrossReferences()), ONE)
    assert list(training.tasks) == ["lm", "coherence"]
    assert [notice.split(":")[0] for notice in training.notices] == ["without cross_reference", "without paraphrase"]
    assert "the only language is qaa" in training.notices[1]


def test_a_task_that_was_asked_for_and_cannot_be_had_is_an_error(texts):
    message = r"tasks\.paraphrase: 0\.5, but the only language is qaa; .*; or give it weight 0"
    with pytest.raises(UserError, match=message):
        open_tasks(run(lm=0.5, paraphrase=0.5), texts["one"], ONE)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lm": 1, "coherence": -0.1}, r"tasks\.coherence: -0\.1 is not allowed; give zero or more"),
        ({"lm": 0, "coherence": 0}, "tasks: all weights are 0; give at least one task a weight above 0"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        RunConfig(tasks=weights)


def test_a_micro_batch_that_does_not_divide_a_slot_is_refused_with_what_does(texts):
    message = r"micro_batch_size: 4 on 2 ranks does not divide slots of 6 sequences .* or the batch; give 1, 2$"
    with pytest.raises(UserError, match=message):
        open_tasks(run(slot=6), texts["all"], TWO)
    with pytest.raises(UserError, match=r"no size does with this number of ranks; use fewer$"):
        open_tasks(run(), texts["all"], Ranks(0, 0, 3))
    saved = open_tasks(run(micro=2, slot=4), texts["all"], ONE).state_dict()
    with pytest.raises(
        UserError, match=r"micro_batch_size: 8 on 1 ranks .* slots of 4 .* whole packs of 2, .* give 2, 4$"
    ):
        open_tasks(run(micro=8), texts["all"], ONE, saved=saved)
    with pytest.raises(UserError, match=r"slot_sequences: 8, but the run began with 4 and keeps that"):
        open_tasks(run(micro=2, slot=8), texts["all"], ONE, saved=saved)


def test_a_run_of_all_tasks_goes_on_with_another_number_of_ranks(texts):
    saved = open_tasks(run(), texts["all"], ONE).state_dict()
    moved = open_tasks(run(), texts["all"], TWO, saved=saved)
    assert (moved.context.rows_per_pack, moved.mixture.slot_sequences) == (4, 4)


def test_lm_alone_goes_on_with_any_number_of_ranks(texts):
    begun = open_tasks(run(lm=1), texts["all"], ONE)
    moved = open_tasks(run(lm=1), texts["all"], TWO, saved=begun.state_dict())
    positions = range(0, 160, 8)
    assert [moved.mixture.locate(p) for p in positions] == [begun.mixture.locate(p) for p in positions]


def test_weights_may_change_on_resume_and_the_change_is_kept(texts):
    saved = json.loads(json.dumps(open_tasks(run(), texts["all"], ONE).state_dict()))
    changed = open_tasks(run(lm=1, coherence=1), texts["all"], ONE, saved=saved, position=320)
    assert changed.mixture.stretches[1].weights == {"lm": 1, "coherence": 1}
    assert changed.mixture.stretches[1].before == changed.mixture.consumed(320)
    assert changed.heads == ("coherence", "cross_reference", "paraphrase")
    assert changed.notices[0].startswith("weights changed at sequence 320: lm 0.7, coherence 0.15")
    again = open_tasks(run(lm=1, coherence=1), texts["all"], ONE, saved=changed.state_dict(), position=640)
    assert again.state_dict() == changed.state_dict()


def test_a_task_that_the_run_began_without_cannot_join_it(texts):
    saved = open_tasks(run(lm=1), texts["all"], ONE).state_dict()
    with pytest.raises(UserError, match=r"tasks\.coherence: 1, but this run began without it"):
        open_tasks(run(lm=1, coherence=1), texts["all"], ONE, saved=saved, position=320)


def lengths(texts, **changes):
    training = open_tasks(run(), texts["all"], ONE)
    return run_length(replace(run(), **changes), training), training


def test_a_run_is_so_many_epochs_of_language_modelling_whatever_else_it_trains(texts):
    (n_steps, steps_per_epoch), training = lengths(texts, max_epochs=3, log_every="0.5 epochs")
    position = n_steps * 16
    assert 3 <= training.epochs(position) < 3 + 16 / training.sequences_per_epoch
    assert training.epochs(position - 16) < 3
    assert steps_per_epoch == pytest.approx(training.sequences_per_epoch / (0.7 * 16))


def test_a_run_is_so_many_tokens_or_steps(texts):
    assert lengths(texts, max_tokens=128 * 16 * 7 + 1)[0][0] == 8
    assert lengths(texts, max_steps=12)[0][0] == 12
    assert lengths(texts)[0][0] == 1000


def test_epochs_of_a_run_without_language_modelling_are_refused(texts):
    training = open_tasks(run(coherence=1), texts["all"], ONE)
    assert run_length(replace(run(coherence=1), max_steps=3), training) == (3, 0)
    with pytest.raises(UserError, match="log_every: epochs are of the task lm, which this run leaves out; give steps"):
        run_length(replace(run(coherence=1), log_every="1 epoch"), training)

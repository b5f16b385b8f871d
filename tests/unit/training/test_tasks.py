import json

import pytest

from genesis_ds.config import BatchConfig, RunConfig, TasksConfig, VerseTasksConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.distributed import Ranks
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.tasks import describe, open_tasks

LINKS = synthetic_corpus().cross_references
ONE, TWO = Ranks(0, 0, 1), Ranks(0, 0, 2)


@pytest.fixture(scope="module")
def token_sets(tmp_path_factory):
    corpus = synthetic_corpus()
    split, root = split_verses(corpus), tmp_path_factory.mktemp("sets")
    languages = {"all": [], "one": ["qaa"]}
    return {key: compile_token_set(corpus, few, load_tokenizer("bytes"), split, root) for key, few in languages.items()}


def run(micro=4, slot=None, **weights):
    batch = BatchConfig(seq_len=128, global_batch_size=16, micro_batch_size=micro)
    return RunConfig(batch=batch, tasks=TasksConfig(**weights), verse_tasks=VerseTasksConfig(slot_sequences=slot))


def test_without_weights_the_default_mixture_is_trained(token_sets):
    training = open_tasks(run(), token_sets["all"], LINKS, ONE, None, 0)
    assert describe(training.mixture) == (
        "lm 28, coherence 6, cross_reference 3, paraphrase 3 of 40 slots of 4 sequences"
    )
    assert training.heads == ("coherence", "cross_reference", "paraphrase")
    assert training.notices == []


def test_a_task_that_the_corpus_does_not_allow_is_left_out_once_and_by_name(token_sets):
    training = open_tasks(run(), token_sets["one"], CrossReferences(), ONE, None, 0)
    assert list(training.tasks) == ["lm", "coherence"]
    assert [notice.split(":")[0] for notice in training.notices] == ["without cross_reference", "without paraphrase"]
    assert "the only language is qaa" in training.notices[1]


def test_a_task_that_was_asked_for_and_cannot_be_had_is_an_error(token_sets):
    message = r"tasks\.paraphrase: 0\.5, but the only language is qaa; .*; or give it weight 0"
    with pytest.raises(UserError, match=message):
        open_tasks(run(lm=0.5, paraphrase=0.5), token_sets["one"], LINKS, ONE, None, 0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lm": 1, "coherence": -0.1}, r"tasks\.coherence: -0\.1 is not allowed; give zero or more"),
        ({"lm": 0, "coherence": 0}, "tasks: all weights are 0; give at least one task a weight above 0"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        TasksConfig(**weights)


def test_ranks_that_do_not_divide_a_slot_are_refused_with_what_does(token_sets):
    message = r"micro_batch_size: 4 x 2 ranks does not divide the slots of 12 sequences .* take turns; give 1, 2$"
    with pytest.raises(UserError, match=message):
        open_tasks(run(slot=12), token_sets["all"], LINKS, TWO, None, 0)
    with pytest.raises(UserError, match=r"3 sequences .* no size does with this number of ranks; use fewer$"):
        open_tasks(run(slot=3), token_sets["all"], LINKS, TWO, None, 0)
    saved = open_tasks(run(micro=2, slot=4), token_sets["all"], LINKS, ONE, None, 0).state_dict()
    with pytest.raises(UserError, match=r"micro_batch_size: 4 x 2 ranks .* slots of 4 .* whole packs of 2; give 2$"):
        open_tasks(run(micro=4), token_sets["all"], LINKS, TWO, saved, 0)
    with pytest.raises(UserError, match=r"slot_sequences: 8, but the run began with 4 and keeps that"):
        open_tasks(run(micro=2, slot=8), token_sets["all"], LINKS, ONE, saved, 0)
    assert open_tasks(run(micro=2), token_sets["all"], LINKS, TWO, saved, 0).rows_per_pack == 2


def test_weights_may_change_on_resume_and_the_change_is_kept(token_sets):
    saved = json.loads(json.dumps(open_tasks(run(), token_sets["all"], LINKS, ONE, None, 0).state_dict()))
    changed = open_tasks(run(lm=1, coherence=1), token_sets["all"], LINKS, ONE, saved, 320)
    assert changed.mixture.stretches[1].weights == {"lm": 1, "coherence": 1}
    assert changed.mixture.stretches[1].before == changed.mixture.consumed(320)
    assert changed.heads == ("coherence", "cross_reference", "paraphrase")
    assert changed.notices[0].startswith("weights changed at sequence 320: lm 0.7, coherence 0.15")
    again = open_tasks(run(lm=1, coherence=1), token_sets["all"], LINKS, ONE, changed.state_dict(), 640)
    assert again.state_dict() == changed.state_dict()


def test_a_task_that_the_run_began_without_cannot_join_it(token_sets):
    saved = open_tasks(run(lm=1), token_sets["all"], LINKS, ONE, None, 0).state_dict()
    with pytest.raises(UserError, match=r"tasks\.coherence: 1, but this run began without it"):
        open_tasks(run(lm=1, coherence=1), token_sets["all"], LINKS, ONE, saved, 320)

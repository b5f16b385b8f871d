"""What stands beside the tasks' measures, on texts of which it is known what their surface gives away."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.analysis.resampling import wilson
from genesis_ds.config import RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.hooks.write.measure_lines import evaluation_lines
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.load import task_class
from genesis_ds.tasks.verse_task import Examples
from genesis_ds.tokenizer import load_tokenizer

GENESIS, RUTH = 1001001, 8001001
N = 60


def verse(number, alphabet):
    """A verse that shares a word with the next one and no other, in letters of its own and of a length of its own."""
    words = [np.random.default_rng(number + place).choice(list(alphabet), 12) for place in (0, 1)]
    return " ".join("".join(word) for word in words) + " x" * (number * 37 % N)


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """Those of a text: its copy in a second language, and in a third other letters, as many."""
    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.add_over_ranks", lambda tensor: None)
    alphabets = {"aa": "abcdefghij", "ab": "abcdefghij", "zz": "klmnopqrst"}
    translations = []
    for language, alphabet in alphabets.items():
        rows = {first + n: (verse(first + n, alphabet), 0) for first in (GENESIS, RUTH) for n in range(N)}
        translations.append(Translation.from_rows(language, language, rows))
    corpus, tokenizer = Corpus(tuple(translations)), load_tokenizer("bytes")
    split = split_verses(corpus, chapter_fraction=0)
    token_set = compile_token_set(corpus, [], tokenizer, split, tmp_path)
    context = TaskContext(
        data=token_set,
        seq_len=256,
        micro_batch_size=4,
        rows_per_pack=4,
        seed=0,
        curves_of="val_book",
        tokenizer=tokenizer,
    )
    tasks = {name: task_class(RunConfig(), name).build(context) for name in ("paraphrase", "coherence")}
    return {name: task.evaluation(context) for name, task in tasks.items()}


def hook_of(evaluations):
    def constant(task, tokens, documents, examples):
        return torch.ones(len(examples)) if task == "coherence" else torch.ones(*examples.shape, 1)

    calls = ModelCalls(constant, Ranks(0, 0, 1), torch.device("cpu"))
    return EvaluateTasks(calls, nullcontext, evaluations, dict.fromkeys(evaluations, EvaluationSchedule(0)))


def test_a_copy_is_found_by_its_n_grams_and_a_cipher_by_its_lengths_alone(evaluations):
    found = evaluations["paraphrase"].on_surface()
    name = "val/val_book/paraphrase/{}/retrieval_at_1/{}"
    assert found[name.format("aa-ab", "by_ngrams")] == 1
    assert found[name.format("zz-aa", "by_ngrams")] < 0.2
    assert found[name.format("zz-aa", "by_length")] == 1
    assert not any("train_subset" in metric for metric in found)


def test_what_follows_is_told_by_a_word_in_common_and_not_by_lengths(evaluations):
    found = evaluations["coherence"].on_surface()
    accuracy = "val/val_book/coherence/accuracy"
    assert found[f"{accuracy}/by_ngrams"] > 0.85
    assert found[f"{accuracy}/swapped/by_ngrams"] == 0, "which of the two comes first it does not know"
    assert found[f"{accuracy}/by_length"] < 0.65


def test_training_pairs_of_one_class_teach_no_control(evaluations):
    evaluation = evaluations["coherence"]
    packer, examples = evaluation.of_training
    evaluation.of_training = packer, Examples(examples.verses[:9], np.zeros(9, int))
    assert evaluation.on_surface() == {}


def test_the_console_shows_the_best_control_chance_and_an_interval_after_a_resume_too(evaluations):
    hook = hook_of(evaluations)
    hook.before_training(0)
    resumed = hook_of(evaluations)
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    record = StepRecord(1, 1)
    resumed.on_step(record)
    lines = {line.split()[0]: line for line in evaluation_lines(record.metrics)}
    line = lines["val/val_book/paraphrase/aa-ab/retrieval_at_1"]
    assert "0.0000  (n-grams 1.0000, chance 0.0167, 95 % 0.0000 to 0.0602, n 60)" in line
    accuracy = "val/val_book/coherence/accuracy"
    assert record.metrics[f"{accuracy}/at_step_0"] == record.metrics[accuracy]
    assert not any("at_step_0" in name or "by_" in name for name in lines)


def test_before_the_first_step_nothing_is_asked_of_training_data(evaluations):
    hook = hook_of(evaluations)
    outputs, asked = hook.model.outputs, []
    hook.model.outputs = lambda task, batches, numbers: asked.append(task) or outputs(task, batches, numbers)
    hook.before_training(0)
    assert asked == ["paraphrase", "coherence"], "of val_book alone, as there is no val_chapter"
    record = StepRecord(1, 1)
    hook.on_step(record)
    assert len(asked) == 2 + 4
    assert hook.at_step_0 == {name: record.metrics[name] for name in hook.at_step_0}


def test_another_number_of_trials_is_not_compared_with_step_0(evaluations):
    hook = hook_of(evaluations)
    hook.before_training(0)
    hook.at_step_0["val/val_book/coherence/accuracy/n"] -= 1
    record = StepRecord(1, 1)
    hook.on_step(record)
    assert "val/val_book/coherence/accuracy/at_step_0" not in record.metrics
    assert "val/val_book/paraphrase/aa-ab/retrieval_at_1/at_step_0" in record.metrics


def test_the_interval_of_a_share_is_wilsons_and_narrow_enough_from_381_trials_on():
    assert wilson(0.3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    for n, narrow in ((380, False), (381, True)):
        low, high = wilson(0.5, n)
        assert (high - low <= 0.1) is narrow

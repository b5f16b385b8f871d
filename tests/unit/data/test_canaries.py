import dataclasses
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.analysis.memorisation import exposure, exposure_by_chance
from genesis_ds.config import MemorisationConfig, RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.canaries import CanaryExposure
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.write.measure_lines import memorisation_lines
from genesis_ds.tasks.canaries import LENGTH, Canaries
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tokenizer import load_tokenizer

CONFIG = MemorisationConfig(canaries=5, repetitions=[1, 3])
SEQ_LEN = 64


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    corpus = synthetic_corpus(chapters_per_book=1)
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split_verses(corpus), tmp_path_factory.mktemp("sets"))


def windows_of(task, positions):
    batch = task.batch(positions)
    return torch.cat([batch.inputs["tokens"], batch.labels["targets"][:, -1:]], 1).tolist()


def test_an_epoch_has_each_canary_so_often_and_all_else_is_the_text(token_set):
    canaries = Canaries(CONFIG, token_set, seed=1)
    task = LanguageModelling(token_set, SEQ_LEN, seed=1, canaries=canaries)
    plain = LanguageModelling(token_set, SEQ_LEN, seed=1)
    n, wanted = task.sequences_per_epoch, [tuple(tokens) for tokens in canaries.tokens.tolist()]
    places = []
    for epoch in range(2):
        positions = range(epoch * n, (epoch + 1) * n)
        found = Counter()
        for position, window, text in zip(
            positions, windows_of(task, positions), windows_of(plain, positions), strict=True
        ):
            changed = [number for number, (a, b) in enumerate(zip(window, text, strict=True)) if a != b]
            if changed:
                start = next(s for s in range(len(window)) if tuple(window[s : s + LENGTH + 2]) in wanted)
                found[tuple(window[start : start + LENGTH + 2])] += 1
                places.append((position % n, start))
                assert start <= min(changed) <= max(changed) < start + LENGTH + 2
        assert [found[tokens] for tokens in wanted] == [1, 3, 1, 3, 1]
    assert set(places[:9]) != set(places[9:]), "in other windows"
    assert windows_of(task, [n + 5, 7]) == [windows_of(task, range(n, n + 6))[5], windows_of(task, range(8))[7]]


def test_canaries_that_have_no_room_or_no_task_are_a_mistake_of_the_user(token_set):
    many = Canaries(MemorisationConfig(canaries=64), token_set, 0)
    with pytest.raises(
        UserError, match=r"memorisation.canaries: 64, with memorisation.repetitions 1,360 windows .*give"
    ):
        LanguageModelling(token_set, SEQ_LEN, 0, canaries=many)
    with pytest.raises(UserError, match=r"memorisation.canaries: one is longer than batch.seq_len 16; give 17"):
        LanguageModelling(token_set, 16, 0, canaries=Canaries(CONFIG, token_set, 0))
    with pytest.raises(UserError, match=r"memorisation.canaries: is of the task lm"):
        RunConfig(memorisation=CONFIG, tasks={"coherence": 1.0})


def test_exposure_is_by_rank_among_what_was_never_seen():
    alternatives = np.arange(1.0, 1024.0)
    found = exposure(np.array([0.5, 1.5, 511.5, 2000.0]), alternatives)
    assert found == pytest.approx([10, 9, 1, 0])
    assert exposure_by_chance(1023) == pytest.approx(1 / np.log(2), abs=0.01)
    assert np.isnan(exposure(np.array([0.5, np.nan]), alternatives)).all()


def test_canaries_that_a_model_knows_are_exposed_and_others_are_not(token_set, monkeypatch):
    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.sum_over_ranks", lambda values, on: values)
    canaries = Canaries(dataclasses.replace(CONFIG, canaries=12), token_set, seed=1)
    known = {tuple(tokens[: n + 1]): tokens[n + 1] for tokens in canaries.tokens[1::2].tolist() for n in range(LENGTH)}

    def model(task, tokens):
        logits = torch.rand(*tokens.shape, 260, generator=torch.Generator().manual_seed(int(tokens.sum())))
        for row, ids in zip(logits, tokens.tolist(), strict=True):
            for n in range(len(ids)):
                if tuple(ids[: n + 1]) in known:
                    row[n, known[tuple(ids[: n + 1])]] = 9.0
        return logits

    calls = ModelCalls(model, Ranks(0, 0, 1), torch.device("cpu"))
    hook = CanaryExposure(calls, nullcontext, canaries, schedule=EvaluationSchedule(1), rows=64)
    record = StepRecord(1, 9)
    hook.before_training(0)
    hook.on_step(record)
    found, name = record.metrics, "memorisation/canaries/exposure/repeated_"
    assert found[name + "3"] == found[name + "3/low"] == 10
    assert found[name + "1/low"] < 1.44 < found[name + "1/high"] < 6
    assert found[name + "1/n"] == found[name + "3/n"] == 6
    assert found[name + "3/at_step_0"] == 10
    assert "10.0 (3 an epoch)  (chance 1.4)" in memorisation_lines(found)[0]

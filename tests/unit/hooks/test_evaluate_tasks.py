import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.config import EvaluationConfig, RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import KEPT_TIERS, compile_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.hooks.observe.grokking import Grokking
from genesis_ds.tasks.base import Findings, Score, TaskContext
from genesis_ds.tasks.load import task_class
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.saving import hook_states

TASKS = ("coherence", "cross_reference", "paraphrase")


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    corpus = synthetic_corpus()
    root = tmp_path_factory.mktemp("sets")
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split_verses(corpus), root)


@pytest.fixture(scope="module")
def verse_of(token_set):
    """The verse ids of a call's documents, read from the tokens themselves."""
    table = VerseTable(token_set, KEPT_TIERS, 256)
    known = {table.tokens(i).tobytes(): int(table.verse_ids[i]) for i in range(len(table))}
    dtype = table.tokens(0).dtype

    def find(tokens, documents):
        texts = (tokens[documents.numbers == n].numpy().astype(dtype).tobytes() for n in range(documents.n))
        return np.array([known[text] for text in texts])

    return find


def evaluate(token_set, outputs, monkeypatch, world_size=1):
    """The record that the last of the ranks notes; what the ranks collect is added up here."""
    collected = {}

    def add(rank, tensor):
        tensors = collected.setdefault(len(calls[rank]), [])
        calls[rank].append(tensor)
        tensors.append(tensor.clone())
        tensor.copy_(torch.stack(tensors).sum(0))

    calls = [[] for _ in range(world_size)]
    for rank in range(world_size):
        monkeypatch.setattr(
            "genesis_ds.hooks.evaluate.model_calls.add_over_ranks", lambda tensor, rank=rank: add(rank, tensor)
        )
        context = TaskContext(
            data=token_set,
            links=synthetic_corpus().cross_references,
            seq_len=256,
            micro_batch_size=4,
            rows_per_pack=4,
            seed=0,
            evaluation=EvaluationConfig(max_verses=300),
            curves_of="val_book",
        )
        evaluations = {name: task_class(RunConfig(), name).build(context).evaluation(context) for name in TASKS}
        calls_of_rank = ModelCalls(outputs, Ranks(rank, rank, world_size), torch.device("cpu"))
        hook = EvaluateTasks(calls_of_rank, nullcontext, evaluations, dict.fromkeys(TASKS, EvaluationSchedule(0)))
        record = StepRecord(1, 1)
        hook.on_step(record)
    return record


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_model_that_knows_is_right_everywhere_on_any_number_of_ranks(token_set, verse_of, monkeypatch, world_size):
    def oracle(task, tokens, documents, examples):
        ids = verse_of(tokens, documents)[examples.numpy()]
        if task == "coherence":
            return torch.from_numpy(np.where(ids[:, 1] - ids[:, 0] == 1, 1.0, -1.0)).float()
        vectors = [np.random.default_rng(identifier).normal(size=64) for identifier in ids.ravel()]
        return torch.nn.functional.normalize(torch.tensor(np.array(vectors)).float(), dim=-1).view(*ids.shape, 64)

    record = evaluate(token_set, oracle, monkeypatch, world_size)
    measured = record.metrics
    for split in ("val_chapter", "val_book"):
        assert measured[f"val/{split}/coherence/accuracy"] == 1
        assert measured[f"val/{split}/coherence/accuracy/swapped"] == 1
        for pair in ("qaa-qab", "qab-qaa", "qaa-qac", "qac-qaa"):
            assert measured[f"val/{split}/paraphrase/{pair}/retrieval_at_1"] == 1
        name = f"val/{split}/cross_reference/qaa/mrr"  # these vectors say nothing of links
        assert measured[name] == pytest.approx(measured[f"{name}/chance"], abs=0.1)
    for curve in ("coherence/qaa", "coherence/qac", "paraphrase/qaa-qab", "paraphrase/qac-qaa"):
        point = record.curves[curve]
        assert (point.train_accuracy, point.val_accuracy) == (1, 1)
        assert max(point.train_loss, point.val_loss) == pytest.approx(np.log1p(np.exp(-1)) * curve.startswith("co"))


def test_a_model_that_says_the_same_of_everything_is_at_chance(token_set, monkeypatch):
    def constant(task, tokens, documents, examples):
        return torch.ones(len(examples)) if task == "coherence" else torch.ones(*examples.shape, 1)

    record = evaluate(token_set, constant, monkeypatch)
    measured = record.metrics
    assert measured["val/val_book/coherence/accuracy"] == pytest.approx(0.5, abs=0.02)
    assert measured["val/val_book/paraphrase/qaa-qab/retrieval_at_1"] == 0
    assert measured["val/val_book/paraphrase/qaa-qab/retrieval_at_1/n"] == 100
    assert measured["val/val_book/paraphrase/qaa-qab/retrieval_at_1/chance"] == pytest.approx(1 / 64)
    for curve in ("paraphrase/qaa-qab", "paraphrase/qac-qaa", "cross_reference/qaa"):
        assert record.curves[curve].train_loss == pytest.approx(record.curves[curve].val_loss), "pools of one size"
    name = "val/val_book/cross_reference/qaa/recall_at_10"
    assert measured[f"{name}/n"] > 5
    assert 0 < measured[f"{name}/chance"] < 1
    assert record.curves["coherence/qab"].val_loss == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.e)) / 2, 0.1)


def test_an_accuracy_in_per_cent_is_an_error():
    scores = {"train_subset": {"toy/all": Score(1.0, 0.97)}, "val_book": {"toy/all": Score(1.0, 97.0)}}
    with pytest.raises(ValueError, match="the curve toy/all has an accuracy of 97; give a share from 0 to 1"):
        Findings(scores=scores, curves_of="val_book").curves()


def test_a_task_may_give_numbers_of_numpy():
    scores = {key: {"toy/all": Score(np.float32(0.5), np.float32(0.25))} for key in ("train_subset", "val_book")}
    found = Findings({"val/val_book/toy/all/loss": np.float32(0.5)}, scores, curves_of="val_book")
    hook = EvaluateTasks(None, nullcontext, {"toy": lambda model: found}, {"toy": EvaluationSchedule(0)})
    detect = Grokking("states", {"toy": EvaluationSchedule(0)})
    record = StepRecord(1, 1)
    hook.before_training(0)
    hook.on_step(record)
    detect.on_step(record)
    assert json.loads(json.dumps(hook_states({"tasks": hook, "grokking": detect})))


def test_of_the_average_of_the_weights_there_is_nothing_that_needs_no_weights():
    name = "val/val_book/multi_token/qaa/ahead_2_bits_per_byte"
    controls = ("by_bigrams", "by_ngrams", "by_length", "by_links", "chance", "n")
    found = {name: 2.0} | {f"{name}/{control}": 3.0 for control in controls}
    hook = EvaluateTasks(
        None,
        nullcontext,
        {"multi_token": lambda model: Findings(metrics=found)},
        {"multi_token": EvaluationSchedule(0)},
        averaged=lambda: nullcontext(True),
    )
    record = StepRecord(1, 1)
    hook.on_step(record)
    assert record.metrics == found | {f"{name}/averaged": 2.0}

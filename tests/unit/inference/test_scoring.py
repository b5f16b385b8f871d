import dataclasses
import json
import math
import shutil
import weakref
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from genesis_ds.checkpoint.load.find import snapshots
from genesis_ds.checkpoint.models.stored_model import StoredModel
from genesis_ds.config import EvaluationConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.inference.loaded import known_model, load
from genesis_ds.inference.nats import of_ensemble, token_nats
from genesis_ds.inference.score_table import table
from genesis_ds.inference.scored_text import of_file, of_texts
from genesis_ds.inference.scoring import Ensemble, bits_per_byte, own_split, score_pairs, score_parts
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.lm import BitsPerByte
from genesis_ds.tokenizer import load_tokenizer


def of_split(models, split, max_windows=None, has_mean=False, **given):
    what, parts, n = own_split(models, given.get("corpus"), given.get("languages", ()), split, max_windows)
    return score_parts(Ensemble(models, has_mean), what, "verses", parts, n)


@pytest.fixture(scope="module")
def of_run(run_directory):
    return load(run_directory)


@pytest.fixture(scope="module")
def token_set(corpus, tmp_path_factory):
    found = load_corpus(corpus)
    return compile_token_set(found, [], load_tokenizer("bytes"), split_verses(found), tmp_path_factory.mktemp("sets"))


def trained_metrics(of_run, token_set, max_windows):
    """What training's own evaluation says of the model, by metric."""
    context = TaskContext(
        data=token_set,
        seq_len=of_run.context,
        micro_batch_size=5,
        rows_per_pack=1,
        seed=0,
        evaluation=EvaluationConfig(max_windows=max_windows),
        curves_of="val_chapter",
    )
    calls = ModelCalls(lambda task, tokens, targets: of_run.model(tokens), Ranks(0, 0, 1), torch.device("cpu"))
    alone = patch("genesis_ds.hooks.evaluate.model_calls.sum_over_ranks", lambda values, device: values)
    with alone, torch.inference_mode():
        return BitsPerByte(context)(calls).metrics


@pytest.mark.parametrize("max_windows", [3, 4])  # of four, one begins with what ends a chapter, of no byte
@pytest.mark.parametrize("split", ["val_chapter", "val_book", "train_subset"])
def test_a_split_has_the_bits_per_byte_that_training_has_measured(of_run, token_set, split, max_windows):
    measured = trained_metrics(of_run, token_set, max_windows)
    expected = {name.split("/")[2]: value for name, value in measured.items() if f"/{split}/" in name}
    assert len(expected) == 3
    report = of_split([of_run], split, max_windows)
    assert {part.name: part.models[0].bits_per_byte for part in report.parts} == pytest.approx(expected, rel=1e-5)
    of_training = of_run.run | {"evaluation": {"max_windows": max_windows}}
    found = bits_per_byte([dataclasses.replace(of_run, run=of_training)], split)
    assert found == {of_run.name: pytest.approx(expected, rel=1e-5)}


def test_of_the_training_text_as_much_is_taken_as_in_the_runs_evaluations(of_run):
    wanted = of_run.run["evaluation"]["max_windows"]
    assert of_split([of_run], "train_subset") == of_split([of_run], "train_subset", wanted)


def test_the_whole_is_the_sum_of_its_verses_and_the_worst_come_first(of_run):
    report = of_split([of_run], "val_book")
    units = [unit.models[0] for unit in report.units]
    whole = report.all.models[0]
    assert report.n_units == len(units)
    assert sum(unit.n_tokens for unit in units) == whole.n_tokens
    assert sum(unit.n_bytes for unit in units) == whole.n_bytes
    bits = sum(unit.bits_per_byte * unit.n_bytes for unit in units)
    assert bits == pytest.approx(whole.bits_per_byte * whole.n_bytes)
    assert whole.perplexity == pytest.approx(2 ** (bits / whole.n_tokens))
    rates = [unit.bits_per_byte for unit in units]
    assert rates == sorted(rates, reverse=True)
    low, high = whole.interval
    assert low < whole.bits_per_byte < high


def test_what_no_window_holds_whole_is_no_verse(of_run):
    report = of_split([of_run], "val_book", max_windows=1)
    tokens = {unit.models[0].n_tokens for unit in report.units}
    assert len(report.units) < report.n_units
    assert sum(part.models[0].n_tokens for part in report.parts) == 3 * of_run.context
    assert max(tokens) < of_run.context


def test_where_no_text_is_whole_none_is_announced_as_the_worst(loaded):
    report = score_parts(Ensemble([loaded], False), "texts", "texts", of_texts(["a" * 99, "b" * 99]), max_windows=1)
    assert (report.n_units, report.units) == (2, [])
    assert not any("worst" in line for line in table(report, worst=5))


def test_models_are_judged_on_the_same_verses_and_their_mean_by_its_definition(loaded, make_export, corpus):
    models = [loaded, load(make_export(seed=1))]
    report = of_split(models, "val_chapter", 16, has_mean=True, corpus=str(corpus))
    first, second, mean = report.all.models
    assert report.names == ["model_0", "model_1", "ensemble"]
    assert second.difference == pytest.approx(second.bits_per_byte - first.bits_per_byte)
    low, high = second.difference_interval
    assert low < second.difference < high
    assert mean.bits_per_byte < (first.bits_per_byte + second.bits_per_byte) / 2
    nats = [-np.log([0.5, 0.1]), -np.log([0.25, 0.3])]
    np.testing.assert_allclose(np.exp(-of_ensemble(nats)), [0.375, 0.2])


def test_snapshots_are_the_last_weights_of_a_run_and_one_of_them_is_in_memory_at_a_time(of_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(of_run.path.parent.parent, run)
    (run / "config.yaml").write_text(yaml.safe_dump(of_run.run))
    state = of_run.model.state_dict()
    torch.manual_seed(0)
    for step in (3, 4, 5, 7):  # the last of a branch that was left: the newest checkpoint is of step 6
        weights = {f"base.{name}": weight + 0.05 * torch.randn_like(weight) for name, weight in state.items()}
        (run / "checkpoints/weights").mkdir(exist_ok=True)
        save_file(weights, run / f"checkpoints/weights/step-{step:08}.safetensors")
    found = snapshots(run, 3)
    assert [path.name for path in found] == ["step-00000004.safetensors", "step-00000005.safetensors", "step-00000006"]
    with pytest.raises(UserError, match=r"snapshots: .*run has kept the weights of 4 steps, not 5; checkpoint"):
        snapshots(run, 5)
    whole = [load(path, tokenizer="bytes") for path in found]
    expected = bits_per_byte(whole, "val_book")
    alive, read = weakref.WeakSet(), StoredModel.decoder

    def read_alone(stored):
        assert not alive
        alive.add(decoder := read(stored))
        return decoder

    monkeypatch.setattr(StoredModel, "decoder", read_alone)
    assert bits_per_byte([known_model(path, tokenizer="bytes") for path in found], "val_book") == expected
    name = of_run.run["name"]
    assert [*expected] == [f"{name}@4", f"{name}@5", f"{name}@6", "ensemble"]


@pytest.mark.parametrize("length", [2, 32, 33, 34, 100])
def test_every_token_but_the_first_is_judged_once_after_what_is_before_it_in_its_window(loaded, length):
    ids = np.arange(length) * 11 % 250 + 4
    (found,) = token_nats(loaded.model, 32, [ids])
    expected = []
    with torch.inference_mode():
        for start in range(0, length - 1, 32):
            window = torch.from_numpy(ids[start : start + 33])[None]
            logits = loaded.model(window[:, :-1])[0].log_softmax(-1)
            expected += (-logits.gather(1, window[0, 1:, None])[:, 0]).tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_texts_of_all_lengths_are_judged_as_alone(loaded):
    texts = [np.arange(n) * 7 % 250 + 4 for n in (1, 2, 40, 3, 90)]
    together = token_nats(loaded.model, 32, texts)
    assert [len(nats) for nats in together] == [0, 1, 39, 2, 89]
    for text, nats in zip(texts, together, strict=True):
        np.testing.assert_allclose(token_nats(loaded.model, 32, [text])[0], nats, rtol=1e-4)


def test_a_file_is_judged_line_by_line_and_as_a_whole(loaded, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\nfirst line\n\n태초에\n", encoding="utf-8")
    report = score_parts(Ensemble([loaded], False), "mine", "lines", [of_file(str(path))])
    assert {unit.name: unit.models[0].n_bytes for unit in report.units} == {"line 2": 13, "line 4": 9}
    assert report.all.models[0].n_bytes == 22
    assert report.n_chapters is None
    (score,) = loaded.score([path.read_text(encoding="utf-8").removesuffix("\n")])
    assert report.all.models[0].bits_per_byte == pytest.approx(score.bits_per_byte)


def test_a_table_shows_every_model_and_text_in_lines_of_less_than_120_columns(loaded, make_export, corpus):
    texts = of_texts(["In the beginning", "태초에 " * 40])
    lines = table(score_parts(Ensemble([loaded], False), "texts", "texts", texts), worst=5)
    assert [line for line in lines if line.endswith("In the beginning")]
    assert max(map(len, lines)) < 120
    models = [loaded, *(load(make_export(seed=seed)) for seed in (1, 2))]
    lines = table(of_split(models, "val_book", 4, has_mean=True, corpus=str(corpus)), worst=5)
    assert [line.split()[1 if line.startswith("all") else 0] for line in lines[7:11]] == [
        *("model_0", "model_1", "model_2", "ensemble")
    ]
    assert max(map(len, lines)) < 120


@pytest.mark.parametrize(("n", "said"), [(4, "no interval over fewer than 5 texts"), (5, "95 % interval over 5 texts")])
def test_there_is_an_interval_from_five_texts_on(loaded, n, said):
    report = score_parts(Ensemble([loaded], False), "texts", "texts", of_texts(["In the beginning", *"abcd"][:n]))
    assert (report.all.models[0].interval is None) == (n < 5)
    assert said in table(report, worst=5)[1]


def test_a_report_as_json_has_the_keys_that_it_had(loaded, corpus):
    report = asdict(of_split([loaded, loaded], "val_book", 4, corpus=str(corpus)))
    assert "NaN" not in json.dumps(report)
    about = {"text", "units_are", "models", "names", "n_units", "n_chapters", "all", "parts", "books", "units"}
    assert (report.keys(), report["models"][0].keys()) == (about, {"name", "path", "context", "tokenizer"})
    rate = {"bits_per_byte", "perplexity", "n_tokens", "n_bytes"}
    compared = rate | {"interval", "difference", "difference_interval"}
    for name, keys in {"parts": {"name"}, "books": {"name", "part"}, "units": {"name", "part", "text"}}.items():
        assert report[name][0].keys() == keys | {"models"}
        first, second = report[name][0]["models"]
        assert (first.keys(), second.keys()) == ((rate, rate) if name == "units" else (rate | {"interval"}, compared))


def test_pairs_are_judged_by_the_probability_of_the_whole_text(loaded, tmp_path):
    pairs = [("a" * n, "b" * (n + 1)) for n in range(1, 30)] + [("aaa", "aa")]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{better}\t{worse}\n" for better, worse in pairs), encoding="utf-8")
    (found,) = score_pairs(Ensemble([loaded], False), str(path)).models
    right = [
        loaded.score([better])[0].log_probability > loaded.score([worse])[0].log_probability for better, worse in pairs
    ]
    assert found.accuracy == pytest.approx(sum(right) / len(pairs))
    assert len(found.wrong) == len(pairs) - sum(right)
    low, high = found.interval
    assert 0 <= low < found.accuracy <= high <= 1
    assert not math.isnan(low)


@pytest.mark.parametrize("line", ["no tab", "two\ttabs\there", "a\t", "\tb", ""])
def test_a_line_that_is_no_pair_is_named(loaded, tmp_path, line):
    path = tmp_path / "pairs.tsv"
    path.write_text(f"a\tb\n{line}\na\tb\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pairs.tsv: line 2: a pair is `better<TAB>worse`"):
        score_pairs(Ensemble([loaded], False), str(path))


def test_a_mean_is_of_several_models_of_one_tokenizer(loaded, make_export, monkeypatch):
    with pytest.raises(UserError, match="ensemble: it is of several models"):
        Ensemble([loaded], has_mean=True)
    other = load(make_export(seed=1))
    monkeypatch.setattr(other.tokenizer, "fingerprint", "other", raising=False)
    with pytest.raises(UserError, match="have different tokenizers"):
        Ensemble([loaded, other], has_mean=True)
    assert Ensemble([loaded, other], has_mean=False).names == ["model_0", "model_1"]


def test_a_model_whose_probabilities_are_no_numbers_is_named(loaded, make_export):
    broken = load(make_export(5))
    with torch.no_grad():
        broken.model.output.weight[0, 0] = math.nan
    with pytest.raises(UserError, match=r"model_5: the model's probabilities are no numbers"):
        score_parts(Ensemble([loaded, broken], True), "texts", "texts", of_texts(["In the beginning"]))


def test_runs_of_other_splits_and_windows_of_other_contexts_are_not_compared(loaded, corpus):
    other = dataclasses.replace(loaded, run=loaded.run | {"data": loaded.run["data"] | {"split_seed": 1}})
    with pytest.raises(UserError, match=r"has the split_seed 0, .* 1: what is validation for one"):
        own_split([loaded, other], str(corpus), (), "val_chapter", None)
    shorter = dataclasses.replace(loaded, context=loaded.context // 2)
    what, parts, _ = own_split([loaded, shorter], str(corpus), (), "val_chapter", None)
    with pytest.raises(UserError, match="max_windows: the models have other contexts"):
        score_parts(Ensemble([loaded, shorter], False), what, "verses", parts, 2)


def test_of_the_training_text_as_many_windows_are_taken_as_the_run_judges(loaded, corpus):
    for said, expected in (({}, 8), ({"max_windows": None}, 8), ({"max_windows": 3}, 3)):
        model = dataclasses.replace(loaded, run=loaded.run | {"evaluation": said})
        assert own_split([model], str(corpus), (), "train_subset", None)[2] == expected

"""Alignment, clustering and connectives, from the configuration to the metrics, with a real model."""

import dataclasses
import json
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.analysis.clustering import BY_CONCEPT, BY_LANGUAGE
from genesis_ds.analysis.points import Event
from genesis_ds.config import AlignmentConfig, BatchConfig, ClusteringConfig, ConnectivesConfig, ModelConfig, RunConfig
from genesis_ds.config.resolve import SizedRun, resolve_steps
from genesis_ds.corpus.references import format_reference
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import Corpus, CrossReferences, Translation
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.alignment import Alignment
from genesis_ds.hooks.evaluate.clustering import Clustering
from genesis_ds.hooks.evaluate.connectives import Connectives
from genesis_ds.hooks.evaluate.model_calls import ModelCalls, VerseStates
from genesis_ds.hooks.write.measure_lines import evaluation_lines, probe_lines
from genesis_ds.model.multitask import build_model
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.representation_probes import choose_probe_verses

pytestmark = pytest.mark.usefixtures("one_rank")

CPU = torch.device("cpu")
MODEL = ModelConfig(n_layers=3, dim=32, n_heads=2, intermediate_size=64, vocab_size=260)
RUN = RunConfig(
    max_steps=1,
    model=MODEL,
    batch=BatchConfig(seq_len=128, global_batch_size=4, micro_batch_size=4),
    alignment=AlignmentConfig(max_verses=64),
)


def text_of(corpus, tmp_path):
    tokenizer = load_tokenizer("bytes")
    token_set = compile_token_set(corpus, [], tokenizer, split_verses(corpus), tmp_path)
    return Text(tokenizer, token_set, CrossReferences())


@pytest.fixture(scope="module")
def synthetic_text(tmp_path_factory):
    return text_of(synthetic_corpus(), tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def english_text(tmp_path_factory):
    """The synthetic language qaa under the name of English, once more under that of Spanish, and qab."""
    qaa, qab, _ = synthetic_corpus().translations
    twins = [dataclasses.replace(qaa, name=language, language=language) for language in ("en", "es")]
    return text_of(Corpus((*twins, qab)), tmp_path_factory.mktemp("sets"))


@pytest.fixture
def topics(synthetic_text, tmp_path):
    """A file of two topics that alternate from verse to verse."""
    ids = synthetic_text.token_set.stream("val_chapter", "qaa").verse_ids
    path = tmp_path / "topics.tsv"
    path.write_text("".join(f"topic{n % 2}\t{format_reference(verse)}\n" for n, verse in enumerate(ids)))
    return str(path)


def resolved(run):
    return resolve_steps(SizedRun(run, run.model, None, tasks=("lm",), heads=()), n_steps=1, steps_per_epoch=1.0)


def chosen(run, text):
    return choose_probe_verses(resolved(run), text)


def probes_of(run, text, seed=0):
    """The hooks of a run on a model of some seed, which has not been trained."""
    torch.manual_seed(seed)
    model = build_model(run.model, run.activation_checkpointing).eval()
    calls = ModelCalls(lambda *inputs, **named: model(*inputs, **named).output, Ranks(0, 0, 1), CPU)
    probes = chosen(run, text)
    shape = {"n_layers": run.model.n_layers, "seq_len": run.batch.seq_len, "rows": run.batch.micro_batch_size}
    states = VerseStates(calls, torch.no_grad, **shape)
    named = {Alignment: probes.alignment, Clustering: probes.clustering}
    return [
        hook(states, verses, verses.texts(text.tokenizer), every=1, is_main=True)
        for hook, verses in named.items()
        if verses
    ]


def measured(run, text):
    record = StepRecord(1, 1)
    for hook in probes_of(run, text):
        hook.before_training(0)
        hook.on_step(record)
    return record.metrics


def test_every_pair_is_compared_at_every_depth_and_a_copy_is_found_to_be_one(english_text):
    found = measured(RUN, english_text)
    pairs = {name.split("/")[1] for name in found if "-" in name}
    assert pairs == {"en-es"}, "of en, es and ko the run has these two"
    for layer in (1, 2, 3):
        of_twin = {
            key: found[f"alignment/en-es/layer_{layer}/{key}"] for key in ("procrustes", "cka", "csls_at_1", "mrr")
        }
        assert of_twin == pytest.approx({"procrustes": 0, "cka": 1, "csls_at_1": 1, "mrr": 1}, abs=1e-6)
    assert found["alignment/en-es/n"] == 32
    (line,) = probe_lines(found)
    assert "alignment/en-es" in line
    assert "cka 1.000 (n-grams 1.000)" in line, "the surface of copies is a copy too"
    assert found["alignment/en-es/by_length/cka"] == pytest.approx(1)
    assert found["alignment/layer_1/eta_squared"] == pytest.approx(0)


def test_all_pairs_of_the_first_three_languages_where_none_is_preferred(synthetic_text):
    found = measured(RUN, synthetic_text)
    assert {name.split("/")[1] for name in found if "-" in name} == {"qaa-qab", "qaa-qac", "qab-qac"}
    assert all(np.isfinite(value) for name, value in found.items() if "/z" not in name)
    assert len(probe_lines(found)) == 3


def test_topics_of_a_file_are_clustered(synthetic_text, topics):
    run = dataclasses.replace(RUN, clustering=ClusteringConfig(topics=topics, max_verses=40))
    found = {name: value for name, value in measured(run, synthetic_text).items() if name.startswith("clustering")}
    assert found["clustering/n"] == 40
    by_chance = found["clustering/layer_3/v_measure_permuted"]
    assert found["clustering/layer_3/v_measure"] == pytest.approx(by_chance, abs=0.1)
    at_depth = {name.removeprefix("clustering/layer_3/") for name in found if "layer_3" in name}
    measures = {*BY_CONCEPT, *BY_LANGUAGE, "transfer", "transfer/chance"}
    thorough = {"v_measure/z", "transfer/z", "transfer/low", "transfer/high"}
    assert at_depth == {name + then for name in measures | thorough for then in ("", "/at_step_0")}
    assert {name.removeprefix("clustering/by_length/") for name in found if "by_length" in name} == measures
    (*_, line) = probe_lines(found)
    assert line.startswith("  clustering       layer ")


def test_z_scores_and_intervals_come_at_every_tenth_evaluation_the_last_and_after_an_event(synthetic_text):
    (hook,) = probes_of(RUN, synthetic_text)
    at = []
    for step in range(1, 13):
        record = StepRecord(step, 12)
        hook.on_step(record)
        if "alignment/qaa-qab/layer_1/cka/z" in record.metrics:
            at.append(step)
        assert "alignment/qaa-qab/layer_1/cka/at_step_0" not in record.metrics, "this model was not seen at step 0"
        if step == 4:
            record.events["coherence/qaa"] = [Event("grokked", step, {}, "")]
        if step == 7:
            record.events["lm/qaa/name"] = [Event("grokked", step, {}, "")]
    assert at == [1, 5, 11, 12]


def test_a_resumed_run_has_what_was_measured_at_step_0_unless_its_verses_are_others(synthetic_text):
    (before,), (resumed,) = probes_of(RUN, synthetic_text), probes_of(RUN, synthetic_text, seed=1)
    before.before_training(0)
    kept = json.loads(json.dumps(before.state_dict()))
    resumed.load_state_dict(kept)
    resumed.before_training(7)
    record = StepRecord(8, 20)
    resumed.on_step(record)
    name = "alignment/qaa-qab/layer_3/cka"
    assert record.metrics[f"{name}/at_step_0"] == kept["at_step_0"][name] != record.metrics[name]
    fewer = dataclasses.replace(RUN, alignment=AlignmentConfig(max_verses=40))
    (other,) = probes_of(fewer, synthetic_text)
    other.load_state_dict(kept)
    assert other.at_step_0 == {}


def test_one_dimension_that_holds_most_of_the_variance_is_named(synthetic_text):
    (hook,) = probes_of(RUN, synthetic_text)
    giant = np.random.default_rng(0).normal(size=(3, *hook.verses.rows.shape, 32))
    assert hook.dominance(giant) is None
    giant[2, 1, :, 5] *= 100
    records = [StepRecord(step, 9) for step in (1, 2)]
    for record in records:
        hook.evaluate(record, giant)
    (text,) = records[0].texts.values()
    assert re.match(r"dimension 5 holds 100% of the variance of qab at layer 3: .*; set alignment.standardize", text)
    assert records[1].texts == {}, "with the z-scores alone"
    found = records[0].metrics
    assert found["alignment/layer_3/largest_dimension"] > 0.99 > 10 * found["alignment/layer_2/largest_dimension"]


def test_a_measure_is_shown_beside_its_strongest_control():
    name = "alignment/en-es/layer_4/"
    values = {"procrustes": 0.8, "procrustes_permuted": 1.1, "procrustes/z": -4.0, "cka": 0.4, "cka/low": 0.3}
    measured = {name + measure: value for measure, value in values.items()}
    measured |= {"alignment/en-es/by_ngrams/procrustes": 0.7, "alignment/en-es/by_ngrams/cka": 0.3}
    measured |= {"alignment/en-es/by_length/procrustes": 0.9, "alignment/en-es/by_length/cka": float("nan")}
    measured |= {f"{name}procrustes/at_step_0": 1.0, f"{name}cka/at_step_0": 0.35, "alignment/en-es/n": 100}
    measured |= {"alignment/layer_2/eta_squared": 0.25, "alignment/layer_4/eta_squared": 0.5}
    assert evaluation_lines(measured) == [
        "  alignment        eta_squared 0.250 (layer 2)  0.500 (layer 4)",
        "  alignment/en-es  layer 4  procrustes 0.800 (n-grams 0.700, z -4.0)  cka 0.400 (step 0 0.350)  (n 100)",
    ]


def test_keywords_are_looked_for_in_english_and_hold_in_all_languages(english_text):
    actors = english_text.tokenizer.decode(english_text.token_set.stream("val_book", "en").tokens[1:60].tolist())
    concepts = {word: [word] for word in dict.fromkeys(actors.replace(".", " ").split())}
    run = dataclasses.replace(RUN, clustering=ClusteringConfig(concepts=concepts, languages=["en", "qab"]))
    probes = chosen(run, english_text)
    assert probes.clustering.languages == ["en", "qab"]
    assert len(set(probes.clustering.groups.tolist())) > 2
    assert (probes.clustering.table.verse_ids[probes.clustering.rows] == probes.clustering.verse_ids).all()


def test_what_cannot_be_had_is_named_and_what_was_asked_for_is_an_error(synthetic_text, tmp_path):
    (notice,) = chosen(RUN, synthetic_text).notices
    assert notice.startswith("without clustering: its keywords are of language 'en', which the run does not have; set")
    off = dataclasses.replace(RUN, clustering=ClusteringConfig(every=0), alignment=AlignmentConfig(every=0))
    assert chosen(off, synthetic_text).notices == ()
    words = dataclasses.replace(off, connectives=ConnectivesConfig(every=1))
    assert "without connectives: connectives.words has no list" in chosen(words, synthetic_text).notices[0]
    for section, message in (
        (
            {"alignment": AlignmentConfig(languages=["qaa", "qaq"])},
            "alignment.languages: the run has no language 'qaq'",
        ),
        ({"clustering": ClusteringConfig(topics=str(tmp_path / "no.tsv"))}, "clustering.topics: .*No such file"),
    ):
        with pytest.raises(UserError, match=message):
            chosen(dataclasses.replace(RUN, **section), synthetic_text)


def test_alignment_says_once_whom_it_leaves_out(tmp_path):
    qaa, qab, qac = synthetic_corpus().translations
    rows = zip(qaa.verse_ids[:40].tolist(), qaa.texts[:40], strict=True)
    few = Translation.from_rows("few", "few", {verse: (text, 0) for verse, text in rows})
    text = text_of(Corpus((few, qab, qac)), tmp_path)
    run = dataclasses.replace(RUN, clustering=ClusteringConfig(every=0))
    for wanted in ([], ["few", "qab", "qac"]):
        probes = chosen(dataclasses.replace(run, alignment=AlignmentConfig(max_verses=64, languages=wanted)), text)
        assert probes.alignment.languages == ["qab", "qac"]
        (notice,) = probes.notices
        assert re.match(r"alignment leaves out few: too few verses .* qab, qac have as well \(few", notice)


def test_connectives_are_foreseen_by_a_model_that_knows_what_follows_and_not_by_another(english_text):
    """The one gives each token's successor in the window; the other says the same of every token."""
    stream = english_text.token_set.stream("val_book", "en")
    verses = [stream.tokens[start : start + n] for start, n in zip(stream.starts, stream.lengths, strict=True)]
    words = [word for verse in verses for word in english_text.tokenizer.decode(verse.tolist()).strip(".").split()]
    word = max(set(words), key=words.count)
    config = ConnectivesConfig(every=1, words={"en": [word.upper()], "de": ["und"]}, max_windows=0)
    models = {
        "knows": lambda task, tokens: torch.nn.functional.one_hot(tokens.roll(-1, dims=1), 260),
        "does not": lambda task, tokens: torch.ones(*tokens.shape, 260),
    }
    found = {}
    for name, logits in models.items():
        record = StepRecord(1, 1)
        calls = ModelCalls(logits, Ranks(0, 0, 1), CPU)
        hook = Connectives(calls, nullcontext, text=english_text, config=config, every=1, batch=RUN.batch)
        hook.on_step(record)
        found[name] = record.metrics
    name = "val/val_book/en/connectives"
    assert 0.9 * words.count(word) < found["knows"][f"{name}/n"] <= words.count(word), "a border cuts some"
    assert found["knows"][name] > 0.95, "the successor of a window's last token is not in it"
    assert found["does not"][name] == 0
    assert not any("/de/" in metric for metric in found["knows"])

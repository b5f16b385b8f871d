"""The report of runs: one file that is whole, small, safe, and there for young, crashed and unlike runs."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.written_runs import write_run

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.cli import main
from genesis_ds.hooks.base import StepRecord
from genesis_ds.report import command
from genesis_ds.report.page import ASSETS, page
from genesis_ds.report.run_record import Said, Series, read_run

NASTY = "</script><script>alert(1)</script><!-- <b>&amp; \x15\u2028"
EVALUATED = {metrics.bits_per_byte("val_chapter", language): 2.0 for language in ("en", "ko")}


DIED = "Traceback\nerror: rank 0: OSError: a disk is gone\nexit code 1\n"


class Parsed(HTMLParser):
    """The elements of a page, and the text in each kind of them."""

    def __init__(self, written):
        super().__init__()
        self.elements, self.texts, self.inside = [], {}, []
        self.feed(written.decode())
        self.data = json.loads(self.texts["script"][0], parse_constant=pytest.fail)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside += [] if tag == "meta" else [tag]

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.inside[-1] if self.inside else "", []).append(data)

    def charts(self):
        return {chart["title"]: chart for section in self.data["sections"].values() for chart in section["charts"]}


def _steps(*steps, **more):
    return [StepRecord(step, 1000, metrics=EVALUATED | {"train/loss/lm": 3.0}, **more) for step in steps]


def _parsed(*paths):
    return Parsed(page([read_run(path) for path in paths]))


def test_the_page_asks_no_network_and_has_what_it_needs(tmp_path):
    path = write_run(tmp_path / "tried", _steps(10, 20))
    found = _parsed(path)
    assert not [given for _, given in found.elements if given.keys() & {"src", "srcset"}]
    assert [given["href"] for _, given in found.elements if "href" in given] == ["#charts"]
    assert not [style for style in found.texts["style"] if re.search(r"url\(|@import", style)]
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|import\(", found.texts["script"][1])
    policies = [given["content"] for _, given in found.elements if given.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'")
    assert f"(v{found.texts['footer'][0].split()[-1]})" in (ASSETS / "uplot.js").read_text()
    assert "Copyright (c) 2022 Leon Sorokin" in found.texts["script"][1]


def test_what_is_not_finite_is_null_in_the_data_and_said_in_words(tmp_path):
    measured = EVALUATED | {"train/loss/lm": math.nan, "optim/grad_norm": math.inf}
    found = _parsed(write_run(tmp_path / "tried", [*_steps(10), StepRecord(20, 1000, metrics=measured)]))
    (line,) = found.charts()["Training loss by task"]["sets"][0]["lines"]
    assert line["y"] == [3, None]
    nothing = dict.fromkeys(EVALUATED, math.nan)
    assert _parsed(write_run(tmp_path / "nan", [StepRecord(10, 1000, metrics=nothing)]))


def test_no_text_of_a_user_becomes_a_part_of_the_page(tmp_path):
    event = Event(NASTY, 10, {}, NASTY)
    measured = EVALUATED | {NASTY: 1.0, metrics.bits_per_byte("val_chapter", "<b>"): 1.0}
    texts = {"sample/en": NASTY, f"said/{NASTY}": NASTY}
    record = StepRecord(10, 1000, metrics=measured, texts=texts, events={f"lm/{NASTY}": [event]})
    found = _parsed(write_run(tmp_path / "<b>&", [record], name="<script>", extra={NASTY: NASTY}))
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert "alert(1)" not in found.texts["script"][1]
    assert found.texts["title"] == ["<script>: a report of genesis_ds"]
    assert any(said.startswith("</script><script>alert(1)") and "\\x15" in said for said in found.texts["span"])
    names = [each["name"] for each in found.charts()["Measures of your own hooks"]["sets"]]
    assert names == [NASTY]


def test_a_run_that_has_only_begun_and_one_that_crashed_have_their_report(tmp_path):
    young, crashed = write_run(tmp_path / "young", [], log=None), write_run(tmp_path / "crashed", _steps(10, 20), DIED)
    with open(crashed / "metrics.jsonl", "a") as file:
        file.write('{"global_step": 30, "train/lo')
    assert "not evaluated yet" in _parsed(young).texts["b"]
    found = _parsed(crashed)
    assert "it crashed" in found.texts["b"]
    assert "error: rank 0: OSError: a disk is gone" in found.texts["dd"]
    (young / "provenance.jsonl").unlink()
    (young / "ds_config.json").unlink()
    assert _parsed(young, crashed)


def test_runs_of_different_tasks_are_overlaid_with_their_differences_first(tmp_path):
    arithmetic = {
        "val/validation/arithmetic/loss": 1.0,
        "val/validation/arithmetic/accuracy": 0.5,
        "train/loss/lm": 2.0,
    }
    text = write_run(tmp_path / "text", _steps(10, 20), seed=1)
    table = write_run(tmp_path / "table", [StepRecord(15, 1000, metrics=arithmetic)], seed=2)
    found = _parsed(text, table)
    assert found.texts["h2"][0] == "What differs in their configurations"
    assert [cell for cell in found.texts["th"] + found.texts["td"] if cell in ("seed", "1", "2")] == ["seed", "1", "2"]
    charts = found.charts()
    assert [line["label"] for line in charts["Training loss by task"]["sets"][0]["lines"]] == ["text", "table"]
    assert [line["label"] for line in charts["Validation by language"]["sets"][0]["lines"]] == ["text"]
    assert [line["label"] for line in charts["arithmetic: accuracy"]["sets"][0]["lines"]] == ["table"]


def test_a_gap_after_a_resume_stays_and_steps_rise(tmp_path):
    found = _parsed(write_run(tmp_path / "tried", _steps(10, 20, 500, 510)))
    (line,) = found.charts()["Training loss by task"]["sets"][0]["lines"]
    assert found.data["steps"][line["x"]] == [10, 20, 500, 510]


def test_events_are_marked_and_told_with_their_clock(tmp_path):
    event = Event("grokked", 20, {}, "it fell")
    log = "11-27 07:15:28  step  20/1000   2%  lm 5.158\nexit code 75\n"
    found = _parsed(write_run(tmp_path / "tried", _steps(10) + _steps(20, events={"lm/en": [event]}), log))
    assert found.charts()["Validation by language"]["sets"][0]["marks"] == [[20, "grokked", "lm/en: grokked"]]
    assert "11-27 07:15 step 20 lm/en: grokked" in found.texts["dd"]


def test_a_task_is_drawn_with_chance_what_needs_no_training_and_its_interval(tmp_path):
    name = metrics.judged("val_chapter", "coherence", "accuracy")
    beside = {metrics.CHANCE: 0.5, "/by_ngrams": 0.6, metrics.LOW: 0.4, metrics.HIGH: 0.7, metrics.TRIALS: 9}
    measured = {name: 0.55} | {name + suffix: value for suffix, value in beside.items()}
    found = _parsed(write_run(tmp_path / "tried", [StepRecord(step, 99, metrics=measured) for step in (10, 20)]))
    lines = found.charts()["coherence: accuracy"]["sets"][0]["lines"]
    assert {(line["label"], line["style"]): line["y"][0] for line in lines} == {
        ("val_chapter", "line"): 0.55,
        ("n-grams, no training", "control"): 0.6,
        ("chance", "control"): 0.5,
        ("95 % interval", "low"): 0.4,
        ("95 % interval", "high"): 0.7,
    }


def test_the_average_of_the_weights_is_drawn_beside_them(tmp_path):
    judged = metrics.judged("val_chapter", "coherence", "accuracy")
    known = metrics.memorised("en", metrics.EXTRACTED)
    measured = EVALUATED | {judged: 0.5, known: 0.5}
    measured |= {name + metrics.AVERAGED: value / 2 for name, value in measured.items()}
    paths = [write_run(tmp_path / name, [StepRecord(10, 99, metrics=measured)]) for name in ("a", "b")]
    charts = _parsed(paths[0]).charts()
    both = {"mean": "Validation by language", "val_chapter": "coherence: accuracy"}
    both["en"] = "Training verses given back word for word"
    for label, title in both.items():
        drawn = {line["label"]: line["y"] for line in charts[title]["sets"][0]["lines"]}
        assert drawn[f"{label}, averaged"] == [drawn[label][0] / 2], title
    shown = [each["name"] for each in _parsed(*paths).charts()["Validation by language"]["sets"]]
    assert shown[:2] == ["val_chapter mean", "val_chapter mean, averaged"]


def test_the_parts_of_a_training_loss_are_drawn_beside_it(tmp_path):
    measured = {"train/loss/lm": 3.0, "train/grad_norm/lm": 1.0, "train/accuracy/coherence": 0.5}
    measured |= {metrics.extra_loss("masked_loss", "lm"): 2.0, metrics.extra_loss("distillation", "lm"): 1.0}
    found = _parsed(write_run(tmp_path / "tried", [StepRecord(10, 99, metrics=measured)]))
    lines = found.charts()["Training loss by task"]["sets"][0]["lines"]
    assert {line["label"]: line["y"] for line in lines} == {"lm": [3], "lm, masked loss": [2], "lm, distillation": [1]}


def test_alignment_is_a_map_of_depths_and_steps(tmp_path):
    def measured(value):
        pairs = {"alignment/en-es": value, "alignment/en-ko": value / 2}
        return {metrics.at_depth(pair, depth, "mrr"): v * depth for pair, v in pairs.items() for depth in (1, 2)}

    records = [StepRecord(step, 99, metrics=measured(step / 100)) for step in (10, 20)]
    found = _parsed(write_run(tmp_path / "tried", records))
    whole = found.data["sections"]["depth"]["maps"][0]["sets"][0]
    assert whole == {
        "name": "mean of 2 pairs",
        "steps": [10, 20],
        "depths": [1, 2],
        "rows": [[0.075, 0.15], [0.15, 0.3]],
    }


def test_a_long_run_of_many_languages_stays_small_and_keeps_its_extremes(tmp_path):
    steps = np.arange(100, 1_000_001, 100)
    noise = np.random.default_rng(0).normal(2, 0.1, len(steps))
    noise[7_000] = 9.0
    names = [
        metrics.LEARNING_RATE,
        *(metrics.bits_per_byte(split, f"l{n}") for split in ("val_chapter", "val_book") for n in range(33)),
    ]
    measures = {name: Series(steps[n:], noise[n:]) for n, name in enumerate(names)}
    said = tuple(Said(int(step), "optim/skipped", "a loss of nan") for step in steps)
    run = replace(read_run(write_run(tmp_path / "long", [])), measures=measures, texts=said)
    written = page([run])
    assert len(written) < 2_000_000
    lines = Parsed(written).charts()["Validation by language"]["sets"][0]["lines"]
    assert all(max(line["y"]) == 9 for line in lines[1:])


def test_the_command_replaces_an_earlier_report_alone(tmp_path, capsys):
    path, output = write_run(tmp_path / "tried", _steps(10), "exit code 0\n"), tmp_path / "report.html"
    for _ in range(2):
        assert main(["report", str(path), "--output", str(output)]) == 0
    assert "tried at step 10, done" in capsys.readouterr().out
    output.write_text("my own notes")
    assert main(["report", str(path), "--output", str(output)]) == 2
    assert output.read_text() == "my own notes"
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "other.html")]) == 2
    assert "not the directory of a run" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = [write_run(tmp_path / folder, _steps(10, 20), name="same") for folder in ("a", "b")]
    runs = command.write_report(paths, tmp_path / "report.html")
    assert [run.name for run in runs] == [str(path) for path in paths]


def test_a_live_report_is_written_again_at_an_evaluation_and_at_the_end(tmp_path, monkeypatch):
    path, output, told = write_run(tmp_path / "tried", _steps(10)), tmp_path / "report.html", []
    (path / "log.txt").unlink()
    of_before_logs = write_run(tmp_path / "before", _steps(10), log=None, max_steps=10)
    lines = ['{"global_step":20,"train/loss":1.0}\n', '{"global_step":30,"val/val_chapter/en/bits_per_byte":1.0}\n']

    def goes_on(seconds):
        if lines:
            with open(path / "metrics.jsonl", "a") as file:
                file.write(lines.pop(0))
        else:
            (path / "log.txt").write_text("exit code 0\n")

    monkeypatch.setattr(command.time, "sleep", goes_on)

    def tell(runs):
        assert [run.state for run in runs[1:]] == ["done"]
        assert len(told) < 3, "written again though nothing is new"
        told.append((runs[0].last_step, runs[0].state, output.read_bytes()))

    command.follow([path, of_before_logs], output, tell)
    assert [(step, state) for step, state, _ in told] == [(10, "stopped"), (30, "stopped"), (30, "done")]
    assert [Parsed(written).data["live"] for _, _, written in told] == [True, True, False]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_a_browser_draws_every_chart_without_an_error(tmp_path):
    event = Event("grokked", 20, {}, "it fell")
    records = _steps(10) + _steps(20, events={"lm/en": [event]}, texts={"sample/en": NASTY})
    at_depth = {metrics.at_depth("alignment/en-ko", depth, "mrr"): 0.5 for depth in (1, 2)}
    records += [StepRecord(30, 1000, metrics=at_depth | {"optim/grad_norm": 0.0, "perf/step_seconds": math.nan})]
    output = tmp_path / "report.html"
    output.write_bytes(page([read_run(write_run(tmp_path / "tried", records))]))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/c"]
    seen = ["--window-size=1280,9000", "--virtual-time-budget=4000", "--dump-dom", output.as_uri()]
    done = subprocess.run(["chromium", *quiet, *seen], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<canvas") == done.stdout.count("<figure") == 5
    assert 'aria-label="Validation by language' in done.stdout

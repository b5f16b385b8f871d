import io
import json
import re
from io import StringIO

import pytest
from rich.console import Console as Screen

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.console import WIDTH, Console
from genesis_ds.hooks.write.tables import Seen, tables

LANGUAGES = [f"q{first}{second}" for first in "ab" for second in "abcdefghijklmnopqrstuvwxyz"][:33]
SPLITS = ("val_chapter", "val_book", "train_subset")


@pytest.fixture(autouse=True)
def _no_colours_of_the_machine(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "SLURM_JOB_ID", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def report(step, **losses):
    measured = {"train/loss": sum(losses.values()) / len(losses), "optim/lr": 1e-3, "optim/grad_norm": 1.0}
    measured |= {f"train/loss/{task}": loss for task, loss in losses.items()}
    return measured | {"perf/tokens_per_second": 1000.0, "memory/host_peak_gib": 1.0}


def evaluation(level, languages=LANGUAGES):
    return {
        f"val/{split}/{language}/bits_per_byte": level + number / 100
        for split in SPLITS
        for number, language in enumerate(languages)
    }


def printed(hook, *records, capsys):
    for record in records:
        hook.on_step(record)
    return capsys.readouterr().out.splitlines()


def test_the_headline_is_language_modelling_whatever_the_interval_had(capsys):
    hook = Console(0, bytes_per_token=0.5)
    steps = [StepRecord(1, 9, metrics=report(1, lm=2.0)), StepRecord(2, 9, metrics=report(2, lm=2.0, coherence=0.7))]
    first, second, third = printed(hook, *steps, StepRecord(3, 9, metrics=report(3, coherence=0.7)), capsys=capsys)
    assert re.match(r"\d\d-\d\d \d\d:\d\d:\d\d  step 1/9  11%  lm 2.000 5.771 b/B  lr", first)
    assert " lm 2.000 " in second
    assert " lm -  " in third


def test_33_languages_are_one_table_that_is_read_at_a_glance(capsys):
    hook = Console(0, split="val_chapter")
    printed(hook, StepRecord(1, 9, metrics=evaluation(3.0)), capsys=capsys)
    later = evaluation(2.9) | {"val/val_chapter/qab/bits_per_byte": 3.5}
    lines = printed(hook, StepRecord(2, 9, metrics=later | report(2, lm=2.0)), capsys=capsys)
    assert len(lines) < 22
    assert max(map(len, lines)) <= WIDTH
    assert "best 3.078 @2" in lines[0]
    assert set(LANGUAGES) <= set(" ".join(lines).split())
    assert "3.500 +0.490 " in lines[4], "the highest comes first, below the mean"
    assert lines[4].split()[0] == "qab"
    assert "3.220 -0.100*" in lines[5]


def test_what_was_best_and_last_is_known_after_a_resume(capsys):
    values = [StepRecord(step, 9, metrics=evaluation(level, ["en"])) for step, level in ((1, 2.0), (2, 3.0))]
    after = StepRecord(3, 9, metrics=evaluation(2.5, ["en"]) | report(3, lm=1.0))
    whole = Console(0, split="val_chapter")
    printed(whole, *values, capsys=capsys)
    resumed = Console(2, split="val_chapter")
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    head, *lines = printed(resumed, after, capsys=capsys)
    assert "best 2.000 @1" in head
    assert "2.500 -0.500" in lines[-1]
    assert "*" not in lines[-1]


def test_events_are_printed_at_every_level_and_samples_of_a_few_languages(capsys):
    record = StepRecord(4, 9, metrics=report(4, lm=1.0), texts={f"sample/{each}": "text" for each in LANGUAGES})
    record.events["lm/en"] = [Event("grokked", 4, {}, "it has")]
    record.texts |= {f"grokking/lm/{each}/changed": "weight decay" for each in LANGUAGES}
    found = {level: printed(Console(0, level), record, capsys=capsys) for level in ("quiet", "short", "full")}
    assert all(any(line.endswith("lm/en: grokked at step 4: it has") for line in lines) for lines in found.values())
    assert sum("weight decay" in line for line in found["full"]) == 1
    assert [sum("sample/" in line for line in lines) for lines in found.values()] == [0, 3, 33]
    assert [any("step 4/9" in line for line in lines) for lines in found.values()] == [False, True, True]


@pytest.mark.parametrize("plain", [None, "NO_COLOR", "SLURM_JOB_ID"])
def test_a_terminal_has_colours_and_a_bar_unless_it_is_asked_not_to(plain, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    if plain:
        monkeypatch.setenv(plain, "1")
    hook = Console(0)
    record = StepRecord(4, 9, metrics=report(4, lm=1.0), events={"lm/en": [Event("grokked", 4, {}, "it has")]})
    hook.on_step(record)
    hook.close()
    assert ("━" in terminal.getvalue()) == ("\x1b[1;32m" in terminal.getvalue()) == (plain is None)
    assert "lm/en: grokked at step 4" in terminal.getvalue()
    assert not terminal.getvalue().endswith("\x1b[?25l"), "the cursor is not left hidden"


def test_a_measure_that_a_users_hook_calls_val_does_not_end_the_run(capsys):
    console = Console(0)
    console.on_step(StepRecord(1, 10, metrics={"val/mine": 1.0, "val/val_chapter/en/bits_per_byte": 2.0}))
    assert "2.000" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "last"), [(126, "n"), (77, "chance"), (60, "val_book")])
def test_a_narrow_terminal_loses_the_last_columns_of_a_table_and_no_letter_of_the_others(width, last):
    name = metrics.judged("{}", "cross_reference", "mrr")
    measured = {}
    for split in ("val_chapter", "val_book"):
        of_split = name.format(split)
        measured |= {of_split: 0.5, of_split + metrics.CHANCE: 0.25, of_split + metrics.TRIALS: 1024.0}
        measured[f"{of_split}/{metrics.BY_NGRAMS}"] = 0.75
    (table,) = tables(measured, Seen(), width)
    paper = Screen(width=width, file=StringIO(), color_system=None)
    paper.print(table)
    head, row = (line.rstrip() for line in paper.file.getvalue().splitlines()[1:])
    assert head.split()[-1] == last
    assert row.startswith("cross_reference  mrr")
    assert "…" not in head + row

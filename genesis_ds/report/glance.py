"""What a reader wants to know first: is it still learning, which language is behind, did anything happen."""

from dataclasses import dataclass

import numpy as np

from genesis_ds import metrics
from genesis_ds.report.run_record import RunRecord, Series

MOST_EVENTS = 3
"""Events that are named at a glance."""


@dataclass(frozen=True)
class Answer:
    """An answer in a few words, with the figures that it rests on."""

    question: str
    answer: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Occurrence:
    """Something that happened: an event of a curve, or what a hook had to say."""

    step: int
    what: str
    kind: str
    reason: str


def answers(run: RunRecord) -> list[Answer]:
    """Return the answers of a run."""
    return [_learning(run), *_behind(run), _happened(run)]


def events(run: RunRecord) -> list[Occurrence]:
    """Return all that happened in a run, the last first."""
    found = [Occurrence(event.step, event.curve, event.kind, event.reason) for event in run.events]
    found += [Occurrence(text.step, text.name, "notice", text.text) for text in run.texts]
    return sorted(found, key=lambda event: -event.step)


def when(run: RunRecord, step: int) -> str:
    """Return the clock of the console's line of a step, or of the next one; empty where there is none."""
    if step in run.clock:
        return run.clock[step]
    later = min((told for told in run.clock if told > step), default=None)
    return "" if later is None else run.clock[later]


def last_values(run: RunRecord, split: str) -> dict[str, Series]:
    """Return language -> its bits per byte in a split, the highest first."""
    found = {
        at["language"]: series
        for name, series in run.measures.items()
        if (at := metrics.BITS_PER_BYTE_OF.fullmatch(name)) and at["split"] == split
    }
    return dict(sorted(found.items(), key=lambda each: -_rank(each[1].values[-1])))


def _rank(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def _learning(run: RunRecord) -> Answer:
    question = "Is it still learning?"
    found, best = run.validation(), run.best()
    if found is None or best is None:
        return Answer(question, "not evaluated yet", (_training_loss(run),))
    (step, value), last = best, found.values[-1]
    change = (f"{last - found.values[-2]:+.3f} since the evaluation before",) if len(found.values) > 1 else ()
    because = (*change, f"best {value:.3f} at step {step:,}")
    if step < found.steps[-1]:
        return Answer(question, f"no new best for {found.steps[-1] - step:,} steps: {last:.3f}", because)
    return Answer(question, f"yes: {value:.3f}, the best so far" if change else f"{value:.3f}, the first", because)


def _training_loss(run: RunRecord) -> str:
    name = metrics.of_task(metrics.TRAIN_LOSS, "lm")
    series = run.measures.get(name)
    return f"training loss {series.values[0]:.3f} to {series.values[-1]:.3f}" if series else "nothing is reported yet"


def _behind(run: RunRecord) -> list[Answer]:
    question = "Which language is behind?"
    by_language = last_values(run, run.watched_split)
    if len(by_language) < 2:
        return [Answer(question, f"{language} is alone", ()) for language in by_language]
    values = {language: float(series.values[-1]) for language, series in by_language.items()}
    mean = float(np.mean([*values.values()]))
    highest, lowest = next(iter(values)), [*values][-1]
    since = {name: _change(series) for name, series in by_language.items() if len(series.values) > 1}
    slowest = max(since, key=lambda name: _rank(since[name]), default="")
    because = [f"mean {mean:.3f}, lowest {lowest} {values[lowest]:.3f}"]
    if slowest:
        fell = "rose most" if since[slowest] > 0 else "fell least"
        because.append(f"{slowest} {fell} since the evaluation before: {since[slowest]:+.3f}")
    answer = f"{highest} {values[highest]:.3f}, {values[highest] - mean:+.3f} to the mean"
    return [Answer(question, answer, tuple(because))]


def _change(series: Series) -> float:
    return float(series.values[-1] - series.values[-2])


def _happened(run: RunRecord) -> Answer:
    found = events(run)
    named = [f"{when(run, e.step)} step {e.step:,} {e.what}: {e.kind}".strip() for e in found[:MOST_EVENTS]]
    n = len(run.starts)
    starts = [f"{n} start{'s' * (n > 1)}, the last {run.starts[-1].started[:16].replace('T', ' ')} UTC"] if n else []
    if run.state == "crashed":
        return Answer("Did anything happen?", "it crashed", (run.last_words, *named, *starts))
    answer = f"{len(found)} event{'s' * (len(found) != 1)}" if found else "nothing"
    return Answer("Did anything happen?", answer, (*named, *starts))

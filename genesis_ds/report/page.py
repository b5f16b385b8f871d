"""The report as one HTML file that needs nothing else."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genesis_ds import __version__, metrics
from genesis_ds.report.curves import Steps
from genesis_ds.report.glance import answers, events, last_values, when
from genesis_ds.report.markup import Html, element, escaped, folded, table
from genesis_ds.report.run_record import MISSING, RunRecord, Said, differences
from genesis_ds.report.sections import Section, sections
from genesis_ds.user_files import dump_yaml

ASSETS = Path(__file__).parent / "assets"
BEGINNING = "<!doctype html>\n<!-- a report of genesis_ds -->\n"
LARGEST = 1_900_000
"""Bytes of a report; beyond them the curves get fewer points."""
POINTS = (600, 300, 150, 80, 40)
"""Points of a curve: the first number with which the report is small enough."""
MOST_EVENTS = 200
MOST_ROWS = 17
"""Languages in one table; more stand beside them."""
MOST_SAMPLES = 10
"""Samples of a language that are shown: the first, the last, and some between."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What a browser may do with the page: no request to any network."""


def page(runs: Sequence[RunRecord], is_live: bool = False) -> bytes:
    """Return the report of runs. is_live: it is loaded again every minute."""
    found = sections(runs)
    last_step = max(1, *(run.last_step for run in runs))
    for n_points in POINTS:
        written = _page(runs, found, Steps(n_points, last_step), is_live)
        if len(written) <= LARGEST:
            break
    return written


def _page(runs: Sequence[RunRecord], found: Sequence[Section], steps: Steps, is_live: bool) -> bytes:
    data: dict[str, Any] = {
        section.key: {
            "charts": [chart.to_json(steps) for chart in section.charts],
            "maps": [chart.to_json() for chart in section.maps],
        }
        for section in found
    }
    whole = {"steps": steps.lists, "sections": data, "live": is_live}
    drawn = [_section(section) for section in found]
    languages = [_languages(run, len(runs) > 1) for run in runs if last_values(run, run.watched_split)]
    names = ", ".join(run.name for run in runs)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{names}: a report of genesis_ds"),
        element("style", _asset("uplot.css"), _asset("report.css")),
    )
    body = element(
        "body",
        element("a", "to the charts", href="#charts", class_="skip"),
        element("header", element("h1", names), _controls()),
        element("main", *_top(runs), element("div", id="charts"), *drawn[:1], *languages, *drawn[1:], *_bottom(runs)),
        element("footer", f"genesis_ds {__version__}; the charts are drawn by uPlot 1.6.32"),
        element("script", _as_json(whole), type="application/json", id="data"),
        element("script", _comment("uplot.LICENSE"), _asset("uplot.js"), _asset("report.js")),
    )
    return f"{BEGINNING}{element('html', head, body, lang='en')}\n".encode("utf-8", "replace")


def _asset(name: str) -> Html:
    return Html((ASSETS / name).read_text(encoding="utf-8"))


def _comment(name: str) -> Html:
    return Html(f"/*\n{_asset(name)}*/\n")


def _as_json(data: Any) -> Html:
    """Return data as JSON that no text in it can end: an element of script ends at its first </script."""
    return Html(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _controls() -> Html:
    """Return the choices that hold for the whole page; the script shows them."""
    axis = element("button", "steps: log", id="axis", type="button")
    theme = element("button", "colours: as the system", id="theme", type="button")
    return element("div", axis, theme, class_="controls", hidden="")


def _top(runs: Sequence[RunRecord]) -> list[Html]:
    parts = []
    if len(runs) > 1:
        rows = [[key, *values] for key, values in differences(list(runs)).items()]
        title = "What differs in their configurations" if rows else "Their configurations are the same"
        parts.append(element("section", element("h2", title), *_some_table(["field", *(r.name for r in runs)], rows)))
    for run in runs:
        cards = [
            element(
                "div",
                element("dt", a.question),
                element("dd", element("b", a.answer)),
                *(element("dd", part) for part in a.because),
            )
            for a in answers(run)
        ]
        name = [element("h2", run.name)] if len(runs) > 1 else []
        parts.append(element("section", *name, _facts(run), element("dl", *cards, class_="answers"), class_="glance"))
    parts += [_happened(run, len(runs) > 1) for run in runs if events(run)]
    return parts


def _facts(run: RunRecord) -> Html:
    """Return in a line what was run, on what, and how far it is."""
    model, batch = run.config.get("model", {}), run.config.get("batch", {})
    of = run.n_steps
    share = f" of {of:,} ({run.last_step / of:.0%})" if of else ""
    speed = run.last(metrics.TOKENS_PER_SECOND)
    last = run.starts[-1] if run.starts else None
    gpus = Counter(str(name) for name in last.machine.get("gpus", [])) if last else Counter()
    said = [
        element("span", run.state, class_=f"state {run.state}"),
        f"step {run.last_step:,}{share}",
        *([when(run, run.last_step)] if when(run, run.last_step) else []),
        f"{model.get('n_layers', MISSING)} layers x {model.get('dim', MISSING)}",
        *([f"{speed:,.0f} tokens/s"] if speed is not None else []),
        *([f"{batch['global_batch_size']} x {batch['seq_len']} tokens a step"] if "seq_len" in batch else []),
        *(f"{n} x {name}" for name, n in gpus.items()),
        *([f"{last.machine.get('host', MISSING)}, torch {last.versions.get('torch', MISSING)}"] if last else []),
    ]
    return element("p", *(element("span", part) for part in said), class_="facts")


def _some_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> list[Html]:
    return [table(head, rows, caption)] if rows else []


def _happened(run: RunRecord, is_named: bool) -> Html:
    found = events(run)
    rows = [[f"{e.step:,}", when(run, e.step) or MISSING, e.what, e.kind, e.reason] for e in found[:MOST_EVENTS]]
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(event.kind for event in found).most_common())
    more = f"; the last {MOST_EVENTS} are shown" if len(found) > MOST_EVENTS else ""
    title = f"What happened{f' in {run.name}' if is_named else ''}: {kinds}{more}"
    inner = table(["step", "when", "of", "event", "why"], rows, class_="events")
    return element("section", folded(title, inner, is_open=len(found) <= 12))


def _languages(run: RunRecord, is_named: bool) -> Html:
    """Return the last bits per byte of each language and its change since the evaluation before, the highest first."""
    watched = run.watched_split
    found = {at["split"] for name in run.measures if (at := metrics.BITS_PER_BYTE_OF.fullmatch(name))}
    others = sorted(found - {watched}, key=lambda split: split == metrics.TRAIN_SUBSET)
    rows = []
    for language, series in last_values(run, watched).items():
        change = f"{series.values[-1] - series.values[-2]:+.3f}" if len(series.values) > 1 else MISSING
        beside = [run.last(metrics.bits_per_byte(split, language)) for split in others]
        best = int(np.argmin(np.where(np.isfinite(series.values), series.values, np.inf)))
        heart = run.last(metrics.memorised(language, metrics.EXTRACTED))
        cells = [
            f"{series.values[-1]:.3f}",
            change,
            *(MISSING if value is None else f"{value:.3f}" for value in beside),
        ]
        rows.append([language, *cells, f"{series.steps[best]:,}", MISSING if heart is None else f"{heart:.2f}"])
    caption = f"Bits per byte at step {series.steps[-1]:,}, the highest first"
    head = ["language", watched, "change", *others, "best at step", "known by heart"]
    blocks = [rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS)]
    tables = [table(head, block, caption, class_="numbers") for block in blocks]
    return element(
        "section",
        element("h2", f"Languages{f' of {run.name}' if is_named else ''}"),
        element("div", *tables, class_="blocks"),
    )


def _section(section: Section) -> Html:
    titles = {"chart": [chart.title for chart in section.charts], "map": [chart.title for chart in section.maps]}
    charts = [
        element("figure", element("figcaption", title), **{f"data-{kind}": f"{section.key}/{number}"})
        for kind, of_kind in titles.items()
        for number, title in enumerate(of_kind)
    ]
    return element("section", element("h2", section.title), element("div", *charts, class_="charts"))


def _bottom(runs: Sequence[RunRecord]) -> list[Html]:
    is_named = len(runs) > 1
    return [
        *(_samples(run, is_named) for run in runs if run.samples),
        *(_what_was_run(run, is_named) for run in runs),
        element("noscript", "The charts need JavaScript; the tables do not."),
    ]


def _samples(run: RunRecord, is_named: bool) -> Html:
    of_language: dict[str, list[Said]] = {}
    for text in run.samples:
        of_language.setdefault(text.name.removeprefix(metrics.sample("")), []).append(text)
    parts = []
    for number, (language, texts) in enumerate(of_language.items()):
        places = sorted({round(at) for at in np.linspace(0, len(texts) - 1, min(len(texts), MOST_SAMPLES))})
        lines = [
            element("li", element("b", f"step {texts[at].step:,}"), element("span", texts[at].text, dir="auto"))
            for at in places
        ]
        parts.append(folded(language, element("ul", *lines, class_="samples"), is_open=number < 3))
    return element("section", element("h2", f"Samples{f' of {run.name}' if is_named else ''}"), *parts)


def _what_was_run(run: RunRecord, is_named: bool) -> Html:
    starts = [
        [start.started, start.command, start.git_commit or MISSING, _pairs(start.versions), _pairs(start.machine)]
        for start in reversed(run.starts)
    ]
    head = ["started", "command", "commit", "versions", "machine"]
    prints = {name: value for start in run.starts[-1:] for name, value in start.fingerprints.items()}
    memory = [
        [device, _gib(run.last(planned)), _gib(run.last(peak))]
        for device, planned, peak in (
            ("GPU", metrics.GPU_PREDICTED, metrics.GPU_PEAK),
            ("host", metrics.HOST_PREDICTED, metrics.HOST_PEAK),
        )
        if run.last(planned) is not None or run.last(peak) is not None
    ]
    return element(
        "section",
        element("h2", f"What was run{f': {run.name}' if is_named else ''}"),
        *_some_table(["memory", "planned", "measured"], memory),
        *_some_table(head, starts, "starts, the last first"),
        *_some_table(["fingerprint", "sha256"], [[name, value] for name, value in prints.items()]),
        folded("config.yaml", element("pre", dump_yaml(run.config))),
        folded("ds_config.json", element("pre", json.dumps(run.ds_config, indent=2, ensure_ascii=False))),
        element("p", "in ", element("code", escaped(str(run.path)))),
    )


def _pairs(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in found.items() if value not in (None, [], ""))


def _gib(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f} GiB"

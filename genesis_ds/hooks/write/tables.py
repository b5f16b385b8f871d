"""What an evaluation found, as a few short tables for people."""

from collections.abc import Collection, Mapping, Sequence
from math import ceil, isfinite
from statistics import fmean
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from genesis_ds import metrics
from genesis_ds.hooks.write.measure_lines import BESIDE, PROBE_KEYS, best_depth, probes_in, strongest_control

LOWER_IS_BETTER = (metrics.BITS_PER_BYTE, "loss", "procrustes")
"""Last parts of the names of measures that fall as a model learns."""
MOST_ROWS = 12
"""Languages in one column of a table, where the console is wide enough for another."""
MOST_PAIRS = 4
"""Pairs of languages that are shown one by one; of more, the mean and the lowest."""


class Seen(NamedTuple):
    """What the evaluations before have found."""

    last: Mapping[str, float] = {}
    """Measure -> its value at the evaluation before."""
    best: Mapping[str, float] = {}
    """Measure -> its best value so far."""


def is_better(name: str, value: float, than: float) -> bool:
    """Return whether a value of a measure is better than another; an equal one is not, nor one that is not finite."""
    return value < than if name.endswith(LOWER_IS_BETTER) else value > than


def compared(measured: Mapping[str, float]) -> dict[str, float]:
    """Return the measures that the tables compare with earlier ones."""
    return {
        name: value
        for name, value in measured.items()
        if name.startswith("val/") and not name.endswith(BESIDE) and isfinite(value)
    }


def tables(measured: Mapping[str, float], seen: Seen, width: int) -> list[Table]:
    """Return the tables of an evaluation, those of which it has something."""
    found = (
        _language_table(measured, seen, width),
        _task_table(measured, seen),
        _probe_table("alignment", metrics.ALIGNMENT, ("procrustes", "mrr"), measured),
        _probe_table("concepts", metrics.CLUSTERING, ("v_measure",), measured),
    )
    return [_narrowed(table, width) for table in found if table]


def _narrowed(table: Table, width: int) -> Table:
    """Leave out the last columns of a table that the console has no room for; the first three stay."""
    widths = [max(cell_len(str(cell)) for cell in (c.header, *c.cells)) + 2 for c in table.columns]
    while len(table.columns) > 3 and sum(widths[: len(table.columns)]) - 2 > width:
        table.columns.pop()
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _compared(name: str, value: float, seen: Seen) -> Text:
    """Return a value with its change, green where it is better than before, and a star where it is the best so far."""
    text = Text(f"{value:.3f}")
    if (before := seen.last.get(name)) is not None:
        style = "green" if is_better(name, value, before) else "red" if is_better(name, before, value) else ""
        text.append(f" {value - before:+.3f}", style)
    if (best := seen.best.get(name)) is not None:
        text.append("*" if is_better(name, value, best) else " ", "bold green")
    return text


def _language_table(measured: Mapping[str, float], seen: Seen, width: int) -> Table | None:
    """Return bits per byte by language and split, highest first; beside them the share that is known by heart."""
    by_language: dict[str, dict[str, str]] = {}
    for name in measured:
        if at := metrics.BITS_PER_BYTE_OF.fullmatch(name):
            by_language.setdefault(at["language"], {})[at["split"]] = name
    if not by_language:
        return None
    splits = list(dict.fromkeys(split for names in by_language.values() for split in names))
    heart = {language: metrics.memorised(language, metrics.EXTRACTED) for language in by_language}
    has_heart = any(name in measured for name in heart.values())
    rows = []
    for language in sorted(by_language, key=lambda each: -measured.get(by_language[each].get(splits[0], ""), 0.0)):
        names = by_language[language]
        cells = [_compared(names[s], measured[names[s]], seen) if s in names else Text("-") for s in splits]
        known = [Text(f"{measured[heart[language]]:.2f}" if heart[language] in measured else "-")]
        rows.append([Text(language), *cells, *(known if has_heart else [])])
    if len(rows) > 1:
        rows.insert(0, _mean_row(by_language, splits, measured, seen))
    of_block = ["language", *splits, *(["by heart"] if has_heart else [])]
    about = ", change since the last, * the best so far" if seen.last else ""
    return _in_blocks(f"bits per byte{about}", of_block, rows, width)


def _mean_row(
    by_language: Mapping[str, Mapping[str, str]], splits: Sequence[str], measured: Mapping[str, float], seen: Seen
) -> list[Text]:
    cells = []
    for split in splits:
        names = [names[split] for names in by_language.values() if split in names]
        before = [seen.last[name] for name in names if name in seen.last]
        last = {metrics.BITS_PER_BYTE: fmean(before)} if len(before) == len(names) else {}
        cell = _compared(metrics.BITS_PER_BYTE, fmean(measured[name] for name in names), Seen(last))
        cells.append(cell.append(" ") if seen.best else cell)
    return [Text("mean"), *cells]


def _in_blocks(title: str, columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> Table:
    """Return a table whose rows stand in as many columns of rows as they need and the console has room for."""
    widths = [max([len(name), *(len(row[n]) for row in rows if n < len(row))]) for n, name in enumerate(columns)]
    room = max(1, (width + 5) // (sum(widths) + 2 * len(columns) + 3))
    blocks = min(room, ceil(len(rows) / MOST_ROWS))
    height = ceil(len(rows) / blocks)
    table = _table(title)
    for block in range(blocks):
        for n, name in enumerate(columns):
            shown = f"   {name}" if block and not n else name
            table.add_column(shown, justify="right" if n else "left", no_wrap=True)
    empty = [Text("")] * len(columns)
    for line in range(height):
        cells: list[Text] = []
        for block in range(blocks):
            number = block * height + line
            row = [*rows[number], *empty][: len(columns)] if number < len(rows) else empty
            cells += [Text("   ") + row[0] if block else row[0], *row[1:]]
        table.add_row(*cells)
    return table


def _task_table(measured: Mapping[str, float], seen: Seen) -> Table | None:
    """Return each task's measures by split, beside what needs no training; means where there are several of a kind."""
    rows: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for name in compared(measured):
        if at := metrics.judged_of(name, measured):
            rows.setdefault((at.task, at.measure), {}).setdefault(at.split, {})[at.member] = name
    if not rows:
        return None
    splits = list(dict.fromkeys(split for of_row in rows.values() for split in of_row))
    table = _table("tasks", "task", "measure", *splits, "control", "chance", "lowest", "n")
    table.columns[1].justify = "left"
    for (task, measure), by_split in rows.items():
        cells = [
            _mean_of([*by_split[split].values()], measured, seen) if split in by_split else Text("-")
            for split in splits
        ]
        table.add_row(task, measure, *cells, *_beside(next(iter(by_split.values())), measured))
    return table


def _mean_of(names: Sequence[str], measured: Mapping[str, float], seen: Seen) -> Text:
    """Return the mean of measures of one kind, with its change where all of them were there before."""
    kind = names[0]

    def mean(values: Mapping[str, float]) -> dict[str, float]:
        return {kind: fmean(values[name] for name in names)} if all(name in values for name in names) else {}

    return _compared(kind, mean(measured)[kind], Seen(mean(seen.last), mean(seen.best) if len(names) == 1 else {}))


def _beside(names: Mapping[str, str], measured: Mapping[str, float]) -> list[str]:
    """Return, of measures of one kind, the strongest of what needs no training, chance, the lowest and the trials.

    names: language or pair -> the measure's name.
    """
    controls = {said: _mean_beside(names.values(), suffix, measured) for said, suffix in metrics.CONTROLS.items()}
    strongest, said = max((value, said) for said, value in controls.items())
    chance = _mean_beside(names.values(), metrics.CHANCE, measured)
    lowest = min(names, key=lambda member: measured[names[member]])
    trials = sum(measured.get(name + metrics.TRIALS, 0) for name in names.values())
    return [
        f"{strongest:.3f} {said}" if isfinite(strongest) else "-",
        f"{chance:.3f}" if isfinite(chance) else "-",
        f"{measured[names[lowest]]:.3f} {lowest}" if len(names) > 1 else "-",
        f"{trials:,.0f}" if trials else "-",
    ]


def _mean_beside(names: Collection[str], suffix: str, measured: Mapping[str, float]) -> float:
    """Return the mean of what stands beside measures under a suffix; -inf where none has it."""
    found = [measured[name + suffix] for name in names if isfinite(measured.get(name + suffix, float("nan")))]
    return fmean(found) if found else float("-inf")


def _probe_table(title: str, prefix: str, shown: Sequence[str], measured: Mapping[str, float]) -> Table | None:
    """Return probes of hidden states, each of the depth where it is best, beside what needs no training."""
    probes = {probe: depths for probe, depths in probes_in(measured).items() if probe.startswith(prefix)}
    if not probes:
        return None
    found = []
    for probe, by_depth in probes.items():
        depth = best_depth(probe, by_depth)
        values = by_depth[depth]
        key = next(name for name in PROBE_KEYS if name in values)
        cells = [f"{depth}"]
        for name in dict.fromkeys((key, *shown)):
            control = strongest_control(probe, depth, name, measured)
            cells.append(f"{values[name]:.3f}{f' ({control})' if control else ''}" if name in values else "-")
        z = values.get(key + metrics.Z_SCORE)
        label = probe.removeprefix(f"{prefix}/")
        found.append((values.get(shown[-1], values[key]), [label, *cells, "-" if z is None else f"{z:.1f}"]))
    n_more = len(found) - MOST_PAIRS
    found.sort(key=lambda each: each[0])
    about = f"{title}: the {MOST_PAIRS} lowest of {len(found)}, mean {shown[-1]} {fmean(each[0] for each in found):.3f}"
    columns = dict.fromkeys((key, *shown))
    table = _table(about if n_more > 0 else title, "", "layer", *columns, "z")
    for _, cells in found[:MOST_PAIRS]:
        table.add_row(*cells)
    return table

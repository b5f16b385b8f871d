"""What `genesis-ds score` prints."""

from collections.abc import Iterator, Sequence

from genesis_ds.errors import beginning
from genesis_ds.inference.rates import FEWEST, ComparedRate, GroupRate, Interval, Rate
from genesis_ds.inference.report import Entry, PairsReport, Report, UnitEntry

WIDEST = 119
"""Columns of a line, in which a text is cut."""
LEAST_OF_TEXT = 20
"""Columns of a text that are shown all the same."""
WIDTH = 41
"""Columns of the values of one model."""


def table(report: Report, worst: int) -> list[str]:
    """Return the lines that show a score: all, parts, and the worst books and units, so many of each."""
    units = report.units_are
    n, groups = (report.n_units, units) if report.n_chapters is None else (report.n_chapters, "chapters")
    interval = f"95 % interval over {n:,} {groups}" if n >= FEWEST else f"no interval over fewer than {FEWEST} {groups}"
    lines = [
        f"{report.text}: {report.n_units:,} {units}",
        f"bits per byte ({interval}) and perplexity per token",
        *(f"  {model.name}: {model.path}, context {model.context} tokens" for model in report.models),
        "",
    ]
    rows: list[tuple[str, Entry | None]] = []
    if len(report.parts) > 1 or (units == "texts" and not worst):
        rows.append(("all", report.all))
    if units != "texts":
        rows += [(part.name, part) for part in report.parts]
    if len(report.books) > 1 and worst:
        rows.append(("worst books", None))
        rows += [(f"  {book.part} {book.name}", book) for book in report.books[:worst]]
    if report.units and report.n_units > 1 and worst:
        rows.append((f"worst {units}", None))
    for unit in report.units[:worst]:
        rows.append((f"  {unit.name}" if units == "texts" else f"  {unit.part} {unit.name}", unit))
    return lines + [line.rstrip() for line in _aligned(rows, report.names)]


def pairs_table(report: PairsReport, worst: int) -> list[str]:
    """Return the lines that show the accuracy on pairs, and so many of the pairs that are wrong for the first model."""
    width = max(len(model.name) for model in report.models)
    lines = [f"{report.pairs}: {report.n:,} pairs; the better text is the likelier one in (95 % interval)"]
    for model in report.models:
        lines.append(f"  {model.name:<{width}}  {model.accuracy:.3f} {_between(model.interval)}")
    first, half = report.models[0], WIDEST // 2 - 4
    lines += [f"wrong for {first.name}, such as"] if first.wrong[:worst] else []
    return lines + [
        f"  {beginning(better, half)}  <  {beginning(worse, half)}" for better, worse in first.wrong[:worst]
    ]


def _aligned(rows: Sequence[tuple[str, Entry | None]], names: Sequence[str]) -> Iterator[str]:
    """Yield a heading and the rows, each with a line for every model; a row without an entry is a heading too."""
    width = max(len(name) for name, _ in rows) + 2
    if len(names) == 1:
        yield " " * width + names[0]
        names = [""]
    else:
        names = [f"{name:<{max(map(len, names)) + 2}}" for name in names]
        yield f"{'':<{width + len(names[0])}}{'bits per byte':<27}perplexity  less the first"
    for name, entry in rows:
        if entry is None:
            yield name
            continue
        for number, (model, rate) in enumerate(zip(names, entry.models, strict=True)):
            line = f"{'' if number else name:<{width}}{model}{_cells(rate)}"
            if isinstance(entry, UnitEntry) and number == 0:
                line += beginning(entry.text, max(LEAST_OF_TEXT, WIDEST - len(line)))
            yield line


def _cells(rate: Rate) -> str:
    interval = _between(rate.interval) if isinstance(rate, GroupRate) else ""
    cells = f"{rate.bits_per_byte:<7.3f}{interval:<20}{_short(rate.perplexity):>10}"
    if isinstance(rate, ComparedRate):
        return f"{cells}  {rate.difference:+.3f} {_between(rate.difference_interval, '+')}"
    return f"{cells:<{WIDTH}}"


def _between(interval: Interval | None, sign: str = "") -> str:
    return f"({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})" if interval else ""


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1e6 else f"{perplexity:.1e}"

"""What `genesis-ds score` prints."""

import unicodedata
from typing import Any

from genesis_ds.errors import shown

WIDEST = 60
"""Columns of the beginning of a text that are shown."""
WIDTH = 41
"""Columns of the values of one model."""


def table(report: dict[str, Any], worst: int) -> list[str]:
    """Return the lines that show a score: all, parts, and the worst books and units, so many of each."""
    units, groups = report["units_are"], "chapters" if report["books"] else report["units_are"]
    lines = [
        f"{report['text']}: {report['n_units']:,} {units}",
        f"bits per byte (95 % interval over {report['n_chapters']:,} {groups}) and perplexity per token",
        *(f"  {model['name']}: {model['path']}, context {model['context']} tokens" for model in report["models"]),
        "",
    ]
    rows = [("", "".join(_title(name, number) for number, name in enumerate(report["names"])))]
    if len(report["parts"]) > 1:
        rows.append(("all", _cells(report["all"])))
    if units != "texts":
        rows += [(part["name"], _cells(part)) for part in report["parts"]]
    if len(report["books"]) > 1 and worst:
        rows.append(("worst books", ""))
        rows += [(f"  {book['part']} {book['name']}", _cells(book)) for book in report["books"][:worst]]
    if report["n_units"] > 1 and worst:
        rows.append((f"worst {units}", ""))
    for unit in report["units"][:worst]:
        name = unit["name"] if units == "texts" else f"{unit['part']} {unit['name']}"
        rows.append((f"  {name}", f"{_cells(unit):<{WIDTH}}{_beginning(unit['text'])}"))
    width = max(len(name) for name, _ in rows) + 2
    return lines + [f"{name:<{width}}{cells}".rstrip() for name, cells in rows]


def pairs_table(report: dict[str, Any], worst: int) -> list[str]:
    """Return the lines that show the accuracy on pairs, and so many of the pairs that are wrong for the first model."""
    width = max(len(model["name"]) for model in report["models"])
    lines = [f"{report['pairs']}: {report['n']:,} pairs; the better text is the likelier one in (95 % interval)"]
    for model in report["models"]:
        low, high = model["interval"]
        lines.append(f"  {model['name']:<{width}}  {model['accuracy']:.3f} ({low:.3f} to {high:.3f})")
    wrong = report["models"][0]["wrong"][:worst]
    lines += [f"wrong for {report['models'][0]['name']}, such as"] if wrong else []
    return lines + [f"  {_beginning(better)}  <  {_beginning(worse)}" for better, worse in wrong]


def _title(name: str, number: int) -> str:
    return f"{name:<{WIDTH}}" if number == 0 else f"{f'{name}, and less the first':<{WIDTH + 26}}"


def _cells(entry: dict[str, Any]) -> str:
    cells = ""
    for model in entry["models"]:
        cells += f"{model['bits_per_byte']:<7.3f}{_between(model.get('interval')):<20}{_short(model['perplexity']):>10}"
        if "difference" in model:
            cells += f"  {model['difference']:+.3f} {_between(model['difference_interval'], '+'):<18}"
        cells += " " * 4
    return cells


def _between(interval: tuple[float, float] | None, sign: str = "") -> str:
    return f"({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})" if interval else ""


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1e6 else f"{perplexity:.1e}"


def _beginning(text: str) -> str:
    """Return the beginning of a text, WIDEST columns at most: a letter of East Asian scripts takes two."""
    beginning, width = "", 0
    for letter in shown(text):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > WIDEST:
            return beginning.rstrip() + "..."
        beginning += letter
    return beginning

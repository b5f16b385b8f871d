"""A table on the standard output: as wide as the terminal and in colour, or a whole line for each row in a pipe."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDEST = 1000
"""Columns of a line in a pipe at most."""


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], numbers: Sequence[str] = (), folded: str = ""
) -> None:
    """Print rows of cells under the names of their columns.

    numbers: the columns that stand to the right. folded: the column that gives way where the terminal is narrow; the
    last one where none is named. In a pipe, in a file and with NO_COLOR there are no colours.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        gives_way = name == (folded or columns[-1])
        side: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, justify=side, no_wrap=not gives_way, overflow="fold", min_width=8 if gives_way else None)
    for row in rows:
        cells: list[RenderableType] = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        table.add_row(*cells)
    screen = Console(highlight=False, markup=False, emoji=False)
    if screen.is_terminal:  # a line that the terminal breaks is better than a number without its end
        screen.width = max(screen.width, screen.measure(table).minimum)
    if not screen.is_terminal:
        screen = Console(width=WIDEST, color_system=None, highlight=False, markup=False, emoji=False)
    with screen.capture() as printed:
        screen.print(table)
    for line in printed.get().splitlines():
        print(line.rstrip())

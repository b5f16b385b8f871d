"""The events of learning curves, printed for people and for programs."""

import json

from rich.text import Text

from genesis_ds.listing import print_table
from genesis_ds.report.curve_plot import COLOURS, Curves, ordered, short

MOST_NAMES = 8
"""Curves without an event that are named."""


def print_events(curves: Curves, as_json: bool = False) -> None:
    """Print a row for each curve with events, or a JSON line for each event; nothing where there is none."""
    with_events = {name: curve for name, curve in ordered(curves).items() if curve[1]}
    if as_json:
        for name, (_, events) in with_events.items():
            for event in events:
                print(json.dumps({"curve": name, **vars(event)}))
        return
    if not with_events:
        return
    rows: list[list[str | Text]] = []
    for name, (points, events) in with_events.items():
        said = Text(", ").join(Text(short(event), COLOURS[event.kind]) for event in events)
        last = points[-1]
        rows.append([name, f"{last.step:,}", f"{last.train_loss:.3f}", f"{last.val_loss:.3f}", said])
    columns = ("curve", "last step", "training", "validation", "events and their steps")
    print_table(columns, rows, numbers=columns[1:4])
    without = [name for name in curves if name not in with_events]
    if without:
        more = f" and {len(without) - MOST_NAMES} more" if len(without) > MOST_NAMES else ""
        print(f"no event: {', '.join(without[:MOST_NAMES])}{more}")
    if any(event.confounded_by for _, events in with_events.values() for event in events):
        print("?: something was changed shortly before; --json says what")

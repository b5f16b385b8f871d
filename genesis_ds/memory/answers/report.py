"""A memory plan for people and for programs: a page of text, stable JSON, a picture, a table of many plans."""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import GIB, format_bytes
from genesis_ds.memory.plan import DevicePlan, Plan, TableRow
from genesis_ds.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BF16_COSTS = "in runs of 200 steps the held-out loss was that of fp32 masters (docs/numerics.md)"
"""What masters and moments in bf16, rounded stochastically, cost."""

_TITLES = {"gpu": "GPU", "host": "host"}

Span = tuple[str, int]
"""A phase and which of its occurrences in the step: (forward, 1) is the second micro-step's."""


def format_plan(plan: Plan) -> str:
    """Return the page that `genesis-ds memory` prints."""
    machine = plan.hardware
    ranks = f"{machine.world_size} rank{'s' if machine.world_size > 1 else ''}"
    if machine.nodes > 1:
        ranks += f" on {machine.nodes} nodes"
    lines = [
        "Memory plan, per rank. All figures are predictions; nothing was run.",
        f"model      {plan.model}: {format_count(plan.parameters)} parameters",
        f"run        {plan.run}",
        f"hardware   {machine.name}, {ranks}",
        f"verdict    {_verdict(plan)}",
    ]
    lines += ["", *_device_lines("GPU", plan.gpu), "", *_device_lines("host", plan.host)]
    lines += _section("What to change", plan.advice)
    lines += _section("Speed", plan.speed)
    lines += _section("Kept in reserve", machine.reserves)
    lines += _section("Notes", plan.notes)
    return "\n".join(lines)


def _verdict(plan: Plan) -> str:
    if not plan.fits:
        missing = [
            f"the {_TITLES[name]} by {format_bytes(-device.left_bytes)} in {device.phase}"
            for name, device in (("gpu", plan.gpu), ("host", plan.host))
            if not device.fits
        ]
        return f"DOES NOT FIT: over {' and '.join(missing)}"
    bound = plan.gpu if plan.binds == "gpu" else plan.host
    share = f"{bound.load:.0%} of what is usable in {bound.phase}"
    fits = "fits" if plan.is_whole else "the weights fit, and ACTIVATIONS ARE NOT COUNTED (see Notes)"
    return f"{fits}; the {_TITLES[plan.binds]} binds next: {share}"


def _device_lines(title: str, device: DevicePlan) -> list[str]:
    if not device.capacity_bytes:
        return [f"{title}: none"]
    left = f"{format_bytes(device.left_bytes)} left" if device.fits else f"{format_bytes(-device.left_bytes)} too much"
    usable = f"{format_bytes(device.usable_bytes)} usable (of {format_bytes(device.capacity_bytes)})"
    lines = [f"{title}: peak {format_bytes(device.peak_bytes)} in {device.phase}; {usable}; {left}"]
    width = max(map(len, device.breakdown), default=0)
    for cause, nbytes in sorted(device.breakdown.items(), key=lambda item: -item[1]):
        lines.append(f"  {cause:<{width}}  {format_bytes(nbytes):>12}  {nbytes / max(device.peak_bytes, 1):6.1%}")
    phases = ", ".join(f"{phase} {format_bytes(nbytes)}" for phase, nbytes in device.phases.items())
    return [*lines, f"  peak by phase: {phases}"]


def _section(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  - {item}" for item in items)] if items else []


def format_count(count: int) -> str:
    """Format a count: 2.11 billion, 61.6 million, 12,345."""
    for word, size in (("billion", 10**9), ("million", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,}"


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return what --json prints. The keys are stable; sizes are bytes per rank."""

    def device(of: DevicePlan) -> dict[str, Any]:
        whole = {"peak_bytes": of.peak_bytes, "allocated_peak_bytes": of.allocated_peak_bytes, "phase": of.phase}
        whole |= {"capacity_bytes": of.capacity_bytes, "usable_bytes": of.usable_bytes}
        return whole | {"breakdown": of.breakdown, "phases": of.phases}

    return {
        "parameters": plan.parameters,
        "gpu": device(plan.gpu),
        "host": device(plan.host),
        "fits": plan.fits,
        "binds": plan.binds,
        "advice": plan.advice,
        "model": plan.model,
        "run": plan.run,
        "hardware": plan.hardware.name,
        "activations_counted": plan.is_whole,
        "notes": plan.notes,
    }


def format_table(rows: Iterable[TableRow]) -> str:
    """Return one line per preset and ds_config: fits, what binds, and both peaks with the phase they fall in.

    A line more names each preset that fits with bf16 masters alone.
    """
    cells = [("preset", "parameters", "ds_config", "fits", "binds", "GPU peak", "in", "host peak", "in")]
    right = {1, 5, 7}
    problems = []
    fitting: dict[str, list[str]] = {}
    for row in rows:
        if row.plan is None:
            cells.append((row.preset, "", row.ds_config, "-", "", "", "", "", ""))
            problems.append(f"{row.preset} x {row.ds_config}: {row.problem}")
            continue
        plan = row.plan
        gpu, host = plan.gpu, plan.host
        on_gpu = (format_bytes(gpu.peak_bytes), gpu.phase) if gpu.capacity_bytes else ("none", "")
        verdict = "yes" if plan.fits else "NO"
        if plan.fits:
            fitting.setdefault(row.preset, []).append(row.ds_config)
        of_row = (row.preset, format_count(plan.parameters), row.ds_config, verdict, _TITLES[plan.binds])
        cells.append((*of_row, *on_gpu, format_bytes(host.peak_bytes), host.phase))
    only_bf16 = [name for name, by in fitting.items() if all(each.endswith("_bf16") for each in by)]
    if only_bf16:
        problems.append(f"{', '.join(only_bf16)}: fits with bf16 masters and moments alone; {BF16_COSTS}")
    return "\n".join([*columns(cells, right), *problems, "Predicted per rank; nothing was run."])


def columns(cells: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Return the lines of a table whose first row is its head; columns of `right` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def plot_plan(plan: Plan, path: str | Path) -> None:
    """Write a picture of both devices through one step: bytes held event by event, phases side by side."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "--plot: matplotlib is missing; without it there is no picture: pip install matplotlib"
        ) from error
    devices = [(name, of) for name, of in (("gpu", plan.gpu), ("host", plan.host)) if of.capacity_bytes]
    spans = merge_spans([phase_spans(of.curve) for _, of in devices])
    figure = Figure(figsize=(11, 1.2 + 3.4 * len(devices)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(devices), 1, sharex=True, squeeze=False)[:, 0]
    for (name, of), ax in zip(devices, axes, strict=True):
        _draw_device(ax, _TITLES[name], of, spans)
    axes[-1].set_xlabel("order of events within each phase (not time)")
    verdict = "fits" if plan.fits else "does not fit"
    figure.suptitle(
        f"{plan.model}: {format_count(plan.parameters)} parameters on {plan.hardware.name}: {verdict}\n"
        f"{plan.run}; predicted, per rank",
        fontsize=11,
    )  # fmt: skip
    save_picture(figure, Path(path))


def phase_spans(curve: Sequence[tuple[str, int]]) -> dict[Span, list[int]]:
    """Cut the curve where the phase changes: {span: bytes after each event}, in order."""
    spans: dict[Span, list[int]] = {}
    seen: dict[str, int] = {}
    for phase, events in groupby(curve, key=lambda event: event[0]):
        spans[phase, seen.setdefault(phase, 0)] = [nbytes for _, nbytes in events]
        seen[phase] += 1
    return spans


def merge_spans(orders: Iterable[Iterable[Span]]) -> list[Span]:
    """Merge orders of spans: the first one's, with what only later ones have put after what they have it after."""
    merged: list[Span] = []
    for order in orders:
        at = 0
        for span in order:
            if span not in merged:
                merged.insert(at, span)
            at = merged.index(span) + 1
    return merged


_BANDS = {"init": "#e8e8e8", "forward": "#dcebf7", "backward": "#fbe6d4", "step": "#e2f0dc", "save": "#ece3f3"}
_LEVEL, _LIMIT, _PEAK = "#1f4e79", "#b3261e", "#444444"


def _draw_device(ax: "Axes", title: str, device: DevicePlan, spans: Sequence[Span]) -> None:
    """Draw the bytes held; each span is one unit wide on both devices, so that they line up."""
    held = phase_spans(device.curve)
    xs: list[float] = []
    ys: list[float] = []
    level = 0.0
    top = max(device.usable_bytes, device.peak_bytes) / GIB * 1.12
    for position, span in enumerate(spans):
        levels = [nbytes / GIB for nbytes in held.get(span, [])] or [level]
        xs += [position + index / len(levels) for index in range(len(levels))]
        ys += levels
        level = levels[-1]
        ax.axvspan(position, position + 1, color=_BANDS.get(span[0], "#f4f4f4"), linewidth=0)
        ax.text(position + 0.5, top * 0.985, span[0], ha="center", va="top", fontsize=9, color="#555555")
    xs.append(len(spans))
    ys.append(level)
    ax.fill_between(xs, ys, step="post", color=_LEVEL, alpha=0.35, linewidth=0)
    ax.step(xs, ys, where="post", color=_LEVEL, linewidth=1.2)
    _rule(ax, device.usable_bytes, color=_LIMIT, style="-", label="usable", above=device.fits)
    _rule(ax, device.peak_bytes, color=_PEAK, style="--", label=f"must fit ({device.phase})", above=not device.fits)
    ax.set(xlim=(0, max(len(spans), 1)), ylim=(0, top), xticks=[], ylabel="GiB held by tensors")
    verdict = f"{format_bytes(abs(device.left_bytes))} {'left' if device.fits else 'too much'}"
    ax.set_title(
        f"{title}: peak {format_bytes(device.peak_bytes)} in {device.phase}, {verdict}", loc="left", fontsize=10
    )
    ax.spines[["top", "right"]].set_visible(False)


def _rule(ax: "Axes", nbytes: int, *, color: str, style: str, label: str, above: bool) -> None:
    """Draw a line across, named at its right end: over the line or under it, so that two close ones are legible."""
    ax.axhline(nbytes / GIB, color=color, linestyle=style, linewidth=1.3)
    ax.annotate(f"{label}\n{format_bytes(nbytes)}", (1, nbytes / GIB), xycoords=("axes fraction", "data"),
                xytext=(5, 0), textcoords="offset points", va="bottom" if above else "top", fontsize=8, color=color,
                annotation_clip=False)  # fmt: skip

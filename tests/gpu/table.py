"""The JSON of measure.py as Markdown, for the documentation: what is predicted beside what was measured."""

from collections.abc import Iterator
from typing import Any

GIB = 2**30
MEASURED = ("frontier_1b", "compile", "ds_configs", "frontier_2b", "largest", "recomputed", "nvme")
"""The parts of `genesis-ds bench`."""
MEMORY = {
    "GPU predicted": lambda row, phase: row["predicted"]["gpu"].get(phase),
    "GPU used": lambda row, phase: row["phases"][phase]["gpu_used"],
    "torch reserved": lambda row, phase: row["phases"][phase]["gpu_reserved"],
    "torch allocated": lambda row, phase: row["phases"][phase]["gpu_allocated"],
    "host predicted": lambda row, phase: row["predicted"]["host"].get(phase),
    "host measured": lambda row, phase: row["phases"][phase]["host"],
}


def format_tables(result: dict[str, Any]) -> str:
    """The whole file."""
    return "\n".join(_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    machine, parts = result["machine"], result["parts"]
    if result["toy"]:
        yield "**Tiny models, to show that the harness works. Nothing here says anything about a GPU.**\n"
    libraries = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"### {machine['device']}\n"
    yield f"Driver {machine['driver']}, {machine['cpu']} with {machine['cores']} cores,"
    yield f"{gib(machine['ram_bytes'])} RAM; {libraries};"
    yield f"commit {machine['git_commit']}; {machine['started']}, {result['seconds']:.0f} s in all."
    if result["stands_for"]:
        yield f"Memory is that of an {result['stands_for']}; every speed is that of the {machine['device']}."
    yield ""
    for rows in (parts.get(name, []) for name in ("quickstart", "resume")):
        yield from (_training(row) for row in rows)
    yield ""
    for row in parts.get("losses", []):
        found = row.get("largest_loss_difference")
        yield f"- blocks {row['name']}: {ending(row)}" + (
            "" if found is None else f", losses off eager's by {found:.1e}"
        )
    yield ""
    for row in parts.get("attention", []):
        yield from _attention(row, machine["device"])
    for row in parts.get("plain_loop", []):
        yield from _plain_loop(row, machine["device"])
    measured = [row for name in MEASURED for row in parts.get(name, []) if "bench" in row["command"].split()]
    if measured:
        yield from _speeds(measured, machine["device"])
        yield from _memory([row for row in measured if "phases" in row], machine["device"])
    if result["left_out"]:
        yield "Left out:\n"
        yield from (f"- {out['name']}: {out['reason']}. `{out['command']}`" for out in result["left_out"])
        yield ""
    yield "The commands:\n"
    for name in ("losses", "attention", "plain_loop", *MEASURED):
        yield from (f"- {row['name']}: `{row['command']}`" for row in parts.get(name, []))


def _training(row: dict[str, Any]) -> str:
    known = row.get("metrics", {})
    done = f"{known.get('global_step', 0)} steps on {row.get('corpus')}"
    memory = "".join(
        f", {device} {known[f'memory/{device}_predicted_gib']:.2f} GiB predicted and "
        f"{known[f'memory/{device}_peak_gib']:.2f} measured"
        for device in ("gpu", "host")
        if f"memory/{device}_predicted_gib" in known
    )
    line = f"- `{row['command']}`: {ending(row)}, {done} in {row['seconds']:.0f} s{memory}"
    if "verdict" in row:
        pairs = {"resumed from whole": row["whole_to_resumed"], "resumed from resumed": row["resumed_to_resumed"]}
        told = "; ".join(
            f"{name}: {pair['steps_that_differ']} of {pair['steps_compared']} losses differ, by at most "
            f"{pair['largest_loss_difference']:.1e}, weights by {pair['largest_weight_difference']:.1e}"
            for name, pair in pairs.items()
        )
        line += f". **{row['verdict']}** ({told})"
    return line


def _attention(row: dict[str, Any], device: str) -> Iterator[str]:
    yield f"| attention on {device} | key/value heads of 16 | rows | kernel | error against fp32 math |"
    yield "|---|---|---|---|---|"
    for found in row.get("kernels", []):
        rows = "packed verses" if found["packed"] else "whole"
        kernel, error = found.get("kernel", found.get("refused")), found.get("max_error")
        told = "" if error is None else f"{error:.1e}"
        yield f"| {found['backend']} | {found['n_kv_heads']} | {rows} | {kernel} | {told} |"
    yield ""


def _plain_loop(row: dict[str, Any], device: str) -> Iterator[str]:
    if "turns" not in row:
        yield f"plain loop: {ending(row)}\n"
        return
    at_once, rows = row["rows"]
    yield f"{row['model']}, {rows} rows of {row['seq_len']} tokens a step, {at_once} at a time, text of"
    yield f"{row['corpus']}, activation checkpointing {row['activation_checkpointing']};"
    yield f"a row is {row['seq_len / mean verse']:.1f} times the mean verse:\n"
    ours = list(dict.fromkeys(pair.partition(" / ")[0] for pair in row["ratios"]))
    yield f"| loop, on {device} | tokens/s without padding | {' | '.join(f'{name} / it' for name in ours)} |"
    yield "|---|---|" + "---|" * len(ours)
    for name, speed in row["tokens_per_second"].items():
        ratios = [row["ratios"].get(f"{of} / {name}") for of in ours]
        told = " | ".join(f"{r['median']:.2f} ({r['min']:.2f} - {r['max']:.2f})" if r else "" for r in ratios)
        yield f"| {name} | {f'{speed:,.0f}' if speed else 'out of memory'} | {told} |"
    yield ""


def _speeds(rows: list[dict[str, Any]], device: str) -> Iterator[str]:
    yield f"| on {device} | parameters | ended | tokens/s | MFU | HFU | kernels a step | their seconds of it | host |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [row["name"]]
        cells.append(f"{row['parameters']:,}" if "parameters" in row else "")
        cells.append(ending(row))
        cells.append(f"{row['tokens_per_second']:,.0f}" if "tokens_per_second" in row else "")
        cells += [f"{row[name]:.1%}" if row.get(name) is not None else "" for name in ("mfu", "hfu")]
        seconds = (
            f"{row['kernel_seconds']:.3f} of {row['step_seconds']['median']:.3f}" if "kernel_seconds" in row else ""
        )
        cells += [str(row.get("kernel_launches") or ""), seconds, gib(row["peak_host_bytes"])]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _memory(rows: list[dict[str, Any]], device: str) -> Iterator[str]:
    yield f"| GiB, on {device} | phase | {' | '.join(MEMORY)} |"
    yield f"|---|---|{'---|' * len(MEMORY)}"
    for row in rows:
        for phase in row["phases"]:
            yield f"| {row['name']} | {phase} | {' | '.join(gib(of(row, phase), '') for of in MEMORY.values())} |"
    yield ""


def ending(row: dict[str, Any]) -> str:
    """How a command ended, and whether that was predicted."""
    told = "ran" if row["ok"] else row["ended"][-1]
    if row.get("holds") is not None:
        told += ", as predicted" if row["holds"] == row["should_hold"] else ", AGAINST THE PREDICTION"
    return told


def gib(nbytes: int | None, unit: str = " GiB") -> str:
    """In GiB; empty where there is nothing."""
    return f"{nbytes / GIB:.2f}{unit}" if nbytes else ""

"""The commands of what a run has left."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genesis_ds.errors import UserError, require_file

if TYPE_CHECKING:
    from genesis_ds.report.run_record import RunRecord


def grokking(
    curves: str, plot: str | None = None, rule: Literal["states", "window"] = "states", json: bool = False
) -> None:
    """Find memorisation, plateaus and grokking in learning curves, and print a row for each curve that has some.

    Args:
        curves: A CSV with the columns step, train_loss, val_loss and, where there are any, train_acc, val_acc, lr,
            memorised (share of the training examples known by heart), changed (what of the run was changed); or a
            run's metrics.jsonl.
        plot: Draw the curves and their events into this file, such as curves.png, those with events first. More than
            12 panels are more files, curves-2.png and so on.
        rule: states is the state machine; window only asks whether the mean validation loss of 500 evaluations is
            10 % below that of the 500 before.
        json: Print a JSON line for each event, with the reason and the numbers that show it.

    Examples:
        genesis-ds grokking runs/modular_addition/metrics.jsonl --plot curves.png
        genesis-ds grokking runs/modular_addition/metrics.jsonl --json
    """
    from genesis_ds.analysis.curves import events_of
    from genesis_ds.analysis.grokking import GrokkingDetector
    from genesis_ds.analysis.window_rule import WindowRule
    from genesis_ds.report.curve_files import curves_of, read_csv
    from genesis_ds.report.curve_plot import plot as draw
    from genesis_ds.report.event_table import print_events
    from genesis_ds.segments import read_numbered

    path = Path(curves)
    require_file(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a CSV of curves or a run's metrics.jsonl")
    found = curves_of(read_numbered(path)) if path.suffix == ".jsonl" else {path.stem: read_csv(path)}
    if not found:
        raise UserError(f"{path}: no curve; a run writes some where grokking.rule is not none")
    detector = GrokkingDetector if rule == "states" else WindowRule
    judged = {name: (points, events_of(detector(), points)) for name, points in found.items()}
    if plot:
        written = ", ".join(map(str, draw(judged, Path(plot)))) or "nothing to draw: no curve has a finite loss"
        print(f"--plot: {written}", file=sys.stderr)
    print_events(judged, as_json=json)
    if not any(events for _, events in judged.values()):
        print(f"{path}: no event", file=sys.stderr)


@dataclass(frozen=True)
class ReportFlags:
    """What `report` takes."""

    runs: tuple[str, ...]
    """Directories of runs; several are overlaid."""
    output: str = "report.html"
    """The file to write; an earlier report there is replaced."""
    live: bool = False
    """Write it again at each evaluation, until every run is done or Ctrl-C; the page loads itself again."""


def report(flags: ReportFlags) -> None:
    """Write what runs are, have learned and have cost into one HTML file that opens offline.

    Examples:
        genesis-ds report runs/quickstart
        genesis-ds report runs/quickstart runs/deep_50m --output both.html
        genesis-ds report runs/deep_50m --live
    """
    from genesis_ds.report.command import follow, write_report

    paths, output = [Path(run) for run in dict.fromkeys(flags.runs)], Path(flags.output)

    def tell(runs: "list[RunRecord]") -> None:
        said = ", ".join(f"{run.name} at step {run.last_step:,}, {run.state}" for run in runs)
        print(f"{output}: {output.stat().st_size / 1e6:.2f} MB; {said}", flush=True)

    if flags.live:
        follow(paths, output, tell)
    else:
        tell(write_report(paths, output))


def checkpoint_list(directory: str) -> None:
    """Show the checkpoints of a run, newest first.

    Args:
        directory: The run's directory, or its checkpoints/.

    Examples:
        genesis-ds checkpoint list runs/quickstart
    """
    from genesis_ds.checkpoint.command import table

    print(*table(directory), sep="\n")


def checkpoint_verify(directory: str) -> int:
    """Read every byte of the checkpoints and compare with their manifests. Exit code 1: something is wrong.

    Args:
        directory: The run's directory, its checkpoints/, or one checkpoint.

    Examples:
        genesis-ds checkpoint verify runs/quickstart
    """
    from genesis_ds.checkpoint.command import verify

    lines, good = verify(directory)
    print(*lines, sep="\n")
    return 0 if good else 1


def checkpoint_prune(directory: str, keep_last: int | None = None) -> None:
    """Remove the checkpoints that the run's own policy does not keep, and what crashes have left.

    Args:
        directory: The run's directory, or its checkpoints/.
        keep_last: How many of the newest stay, in place of the run's own number.

    Examples:
        genesis-ds checkpoint prune runs/quickstart --keep_last 1
    """
    from genesis_ds.checkpoint.command import prune_directory

    for line in prune_directory(directory, keep_last):
        print(line)


def checkpoint_consolidate(directory: str, checkpoint: str | None = None, trust: bool = False) -> None:
    """Write the whole fp32 weights of a checkpoint into one safetensors file beside it.

    Args:
        directory: A checkpoint, or a run's directory.
        checkpoint: Of a run: best, step-N, or a name. None: the newest good one.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint consolidate runs/quickstart
    """
    from genesis_ds.checkpoint.command import consolidate

    print(consolidate(directory, checkpoint, trust))


def checkpoint_export(
    source: str,
    output: str,
    to: Literal["safetensors", "hf"] = "safetensors",
    dtype: Literal["fp32", "bf16"] = "fp32",
    weights: Literal["last", "average"] = "last",
    checkpoint: str | None = None,
    trust: bool = False,
) -> None:
    """Write a trained model as one directory, with its tokenizer and a card.

    Args:
        source: A run's directory; a checkpoint; a file of weights alone; another export; a file step_N.pt of the
            earlier Genesis Arbiter code.
        output: The directory to make.
        to: safetensors is for genesis_ds; hf for transformers and what is built on it, without the tasks' heads.
        dtype: Of the weights.
        weights: last: those that are trained; average: what optimizer.weight_average keeps beside them.
        checkpoint: Of a run: best, step-N, or a name. None: the newest good one.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint export runs/quickstart exported/quickstart
        genesis-ds checkpoint export runs/quickstart exported/hf --to hf
        genesis-ds checkpoint export runs/deep_50m exported/half --to hf --dtype bf16
    """
    from genesis_ds.checkpoint.command import export_model

    print(
        *export_model(source, output, to, dtype, checkpoint=checkpoint, average=weights == "average", trust=trust),
        sep="\n",
    )


def checkpoint_import(source: str, output: str, n_heads: int | None = None, trust: bool = False) -> int:
    """Make an export of a checkpoint of the earlier Genesis Arbiter code, and compare the logits of both.

    Exit code 1: they differ by more than rounding.

    Args:
        source: A file step_N.pt, or a directory with model.safetensors or training_state.pt.
        output: The directory to make, as checkpoint export does.
        n_heads: Number of heads, where the checkpoint does not say it.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint import checkpoints/step_100.pt exported/earlier
    """
    from genesis_ds.checkpoint.command import import_legacy

    lines, good = import_legacy(Path(source), Path(output), n_heads, trust=trust)
    print(*lines, sep="\n")
    return 0 if good else 1

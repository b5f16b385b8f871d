"""`genesis-ds sweep`: run the trials of a sweep, and show what came of them."""

import json
import signal
import sys
from typing import Any

from genesis_ds.errors import UserError
from genesis_ds.listing import print_table
from genesis_ds.report.command import write_report
from genesis_ds.report.run_record import CONFIG
from genesis_ds.sweep.plan import Range, Sweep, Values, load_sweep
from genesis_ds.sweep.trials import WHY, Trials, short
from genesis_ds.training.session import train_arguments

REPORT, MOST_REPORTED = "report.html", 12
"""The page of the best trials, and how many are in it."""
ORDER = ("COMPLETE", "PRUNED", "FAIL")


def run_sweep(path: str, as_json: bool = False) -> int:
    """Run what a sweep has left to do, print its table, and write a report of its best runs beside them.

    Return the exit code: 1 where no trial has come to its end. Raises UserError, and KeyboardInterrupt when stopped.
    """
    sweep = load_sweep(path)
    require_trainable(sweep, path)
    trials = Trials(sweep, say=_say)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        trials.run()
    except KeyboardInterrupt:
        _say("stopped; the same command goes on")
        raise
    found = sorted(trials.study.get_trials(deepcopy=False), key=lambda trial: _rank(trials, trial))
    names = list(trials.sweep.fields)
    code = 0 if any(trial.state.name == "COMPLETE" for trial in found) else 1
    if as_json:
        for trial in found:
            print(json.dumps(_as_dict(trials, trial)))
        return code
    rows = [
        [
            trials.run_of(trial).name,
            "done" if trial.state.name == "COMPLETE" else trial.state.name.lower(),
            f"{trial.value:.4f}" if trial.value is not None else "-",
            *(short(trial.params.get(name)) for name in names),
            trial.user_attrs.get(WHY, ""),
        ]
        for trial in found
    ]
    print_table(("trial", "state", trials.sweep.objective, *names, "why"), rows, numbers=(trials.sweep.objective,))
    print(f"runs       {trials.directory}; genesis-ds runs {trials.directory} lists them")
    for trial in found:
        if trial.state.name == "COMPLETE" and not (trials.run_of(trial) / CONFIG).is_file():
            _say(f"{trials.run_of(trial)} is gone; it is not in the report")
    if begun := [run for run in map(trials.run_of, found) if (run / CONFIG).is_file()]:
        write_report(begun[:MOST_REPORTED], trials.directory / REPORT)
        print(f"report     {trials.directory / REPORT}")
    return code


def require_trainable(sweep: Sweep, path: str) -> None:
    """Raise UserError for a run, a field or a setting of a sweep with which no trial could be trained.

    Of a field at least one value, or an end of its range, must be allowed by itself.
    """
    choices = {name: sweep.choices(name) for name in sweep.fields}
    values: dict[str, list[Any]] = {
        name: [of.low, of.high] if isinstance(of, Range) else of for name, of in choices.items()
    }
    if _refusal(sweep, {name: of[0] for name, of in values.items()}) is None:
        return
    of_fields: list[list[Values]] = [[{name: value} for value in of] for name, of in values.items()]
    for trials in [[Values()], *of_fields]:
        refusals = [_refusal(sweep, trial) for trial in trials]
        if all(refusals):
            raise UserError(f"{path}: {refusals[0]}")


def _refusal(sweep: Sweep, values: Values) -> UserError | None:
    try:
        train_arguments(sweep.words(values, 0))
    except UserError as error:
        return error
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _rank(trials: Trials, trial: Any) -> tuple[int, float, int]:
    """Return what a table is sorted by: the best first, then what was pruned, then what failed."""
    value = trial.value if trial.value is not None else 0.0
    return ORDER.index(trial.state.name), value if trials.sweep.direction == "minimize" else -value, trial.number


def _as_dict(trials: Trials, trial: Any) -> dict[str, Any]:
    about = {"trial": trial.number, "state": trial.state.name.lower(), "values": trial.params, "value": trial.value}
    return about | {"why": trial.user_attrs.get(WHY), "path": str(trials.run_of(trial))}

"""The trials of a sweep: each a run of the trainer in its own process; what came of them is kept in a database."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.load.teacher import teacher_shapes
from genesis_ds.disk import is_locked, lock, size_of
from genesis_ds.errors import UserError, shown
from genesis_ds.memory.answers.command import plan_of
from genesis_ds.memory.machine.hardware import apart
from genesis_ds.report.run_record import METRICS, RunRecord, Series, read_run
from genesis_ds.supervision.stop import STOPPED
from genesis_ds.sweep.plan import VALIDATION, Range, Sweep, Values

POLL = 2.0
"""Seconds between two looks at what a trial that trains has reported."""
WHY = "why"
"""Attribute of a trial that was not completed: the reason, for people."""
FIXED = ("fields", "method", "objective", "direction", "run", "ds_config", "set", "max_steps", "max_hours", "seed")
"""What of a sweep stays as it was begun. More trials may be asked for."""


class Trials:
    """The trials of one sweep, in its directory, which one process works on at a time.

    Raises UserError without optuna, while another process works on it, and where it was begun with other settings.
    """

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError('sweep: optuna is missing; install it: pip install "genesis_ds[sweep]"') from error
        self.sweep, self.say, self.optuna = sweep, say, optuna
        self.directory = sweep.directory
        self._claim = lock(self.directory / "lock", wait=False)
        if self._claim is None:
            raise UserError(f"{self.directory}: another process works on this sweep; wait for it, or stop it")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=f"sqlite:///{self.directory.absolute()}/trials.db",
            study_name=sweep.name,
            direction=sweep.direction,
            pruner=optuna.pruners.MedianPruner() if sweep.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._require_same()
        self.planned = sweep.planned()
        for values in self.planned or ():
            self.study.enqueue_trial(values, skip_if_exists=True)

    def _require_same(self) -> None:
        now = {key: value for key, value in asdict(self.sweep).items() if key in FIXED}
        begun = self.study.user_attrs.get("sweep")
        if begun is None:
            self.study.set_user_attr("sweep", now)
        elif differ := [key for key in FIXED if begun.get(key) != now[key]]:
            raise UserError(f"{differ[0]}: was {begun.get(differ[0])} when {self.directory} was begun; change the name")

    @property
    def n_trials(self) -> int:
        """How many trials the sweep asks for."""
        return len(self.planned) if self.planned is not None else self.sweep.trials or 0

    def run(self) -> None:
        """Run what is not done: first the trials that a kill has cut short. Raises KeyboardInterrupt."""
        running = [self.optuna.trial.TrialState.RUNNING]
        for cut in self.study.get_trials(deepcopy=False, states=running):
            self._seed(cut.number)
            self._run(self.optuna.trial.Trial(self.study, cut._trial_id))
        while sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False)) < self.n_trials:
            self._seed(len(self.study.get_trials(deepcopy=False)))
            self._run(self.study.ask())

    def _seed(self, number: int) -> None:
        """Give a trial a sampler of its own, so that a resumed sweep draws what one without a stop would have drawn."""
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.sweep.seed + number)

    def _run(self, trial: Any) -> None:
        values = {name: self._suggested(trial, name) for name in self.sweep.fields}
        words = self.sweep.words(values, trial.number)
        path = self.run_of(trial)
        self.say(f"trial {trial.number}: {told(values)}")
        plan = partial(refused, [*words, f"--hardware={self.sweep.hardware}"])
        if not (path / "config.yaml").exists() and (refusal := apart(plan)):
            self._tell(trial, "FAIL", why=refusal)
            return
        if is_locked(path / "checkpoints" / "lock"):
            self.say(f"trial {trial.number} still trains, since the sweep was killed; waiting for it")
        while is_locked(path / "checkpoints" / "lock"):
            time.sleep(POLL)  # a killed sweep has left it training
        code, is_pruned = self._train(trial, words, path)
        if code == STOPPED and not is_pruned:
            raise KeyboardInterrupt
        value = objective(read_run(path), self.sweep.objective) if (path / "config.yaml").exists() else None
        if is_pruned:
            self._tell(trial, "PRUNED", why="worse than the median")
        elif code or value is None:
            log = self.directory / f"trial-{trial.number:03}.txt"
            why = f"exit code {code}, see {log}" if code else f"no finite {self.sweep.objective}"
            self._tell(trial, "FAIL", why=why)
        else:
            self._tell(trial, "COMPLETE", value)

    def run_of(self, trial: Any) -> Path:
        """Return the directory of a trial's run."""
        return self.directory / f"trial-{trial.number:03}"

    def _suggested(self, trial: Any, name: str) -> Any:
        of = self.sweep.choices(name)
        if not isinstance(of, Range):
            return trial.suggest_categorical(name, of)
        is_whole = isinstance(of.low, int) and isinstance(of.high, int)
        return (trial.suggest_int if is_whole else trial.suggest_float)(name, of.low, of.high, log=of.log)

    def _train(self, trial: Any, words: list[str], path: Path) -> tuple[int, bool]:
        """Train a trial, or go on with it; return its exit code, and whether it was pruned."""
        command, is_pruned = [sys.executable, "-m", "genesis_ds", "train", *words], False
        with open(self.directory / f"trial-{trial.number:03}.txt", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        seen = 0
        try:
            while not _has_ended(process, POLL):
                size = size_of(path / METRICS)
                if self.sweep.prune and not is_pruned and size != seen and self._is_behind(trial, path):
                    is_pruned = True
                    process.send_signal(signal.SIGTERM)
                seen = size
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)  # it saves, and goes on when the sweep does
            process.wait()
            raise
        return process.returncode, is_pruned

    def _is_behind(self, trial: Any, path: Path) -> bool:
        """Report to the pruner what is new of the objective; return what it says."""
        found = measured(read_run(path), self.sweep.objective)
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, value in zip(found.steps.tolist(), found.values.tolist(), strict=True) if found else ():
            if step not in known:
                trial.report(value, step)
        return bool(trial.should_prune())

    def _tell(self, trial: Any, state: str, value: float | None = None, why: str = "") -> None:
        if why:
            trial.set_user_attr(WHY, why)
        self.study.tell(trial, value, state=self.optuna.trial.TrialState[state])
        reached = f"{self.sweep.objective} {value:.4f}" if value is not None else ""
        self.say(f"trial {trial.number}: {', '.join(filter(None, (reached, why)))}")


def _has_ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Return whether a process has ended; wait so many seconds for it at most."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def refused(words: list[str]) -> str:
    """Return why a trial cannot be trained, empty where it can: its memory plan does not fit, or a value is wrong."""
    try:
        plan = plan_of(words, teacher_shapes)
    except UserError as error:
        return shown(error)
    if plan.fits:
        return ""
    bound = plan.gpu if not plan.gpu.fits else plan.host
    return f"does not fit: {-bound.left_bytes / 2**30:.2f} GiB too much in {bound.phase}"


def measured(run: RunRecord, name: str) -> Series | None:
    """Return the measure that a trial is judged by; None where its run does not have it."""
    return run.validation() if name == VALIDATION else run.measures.get(name)


def objective(run: RunRecord, name: str) -> float | None:
    """Return what a trial is judged by; None where its run does not have it, or it is not finite."""
    if name == VALIDATION:
        best = run.best()
        return best[1] if best else None
    value = run.last(name)
    return value if value is not None and math.isfinite(value) else None


def told(values: Values) -> str:
    """Return the values of a trial for people."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """Return the value of a field for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)

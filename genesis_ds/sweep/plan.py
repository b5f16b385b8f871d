"""What a sweep is: one YAML file, read strictly, and the trials that it asks for."""

import itertools
import json
import math
import random
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from genesis_ds.config.checks import require, require_count, require_positive
from genesis_ds.errors import UserError, nearest
from genesis_ds.user_files import expanded, load_yaml

Method = Literal["grid", "random", "tpe"]
Direction = Literal["minimize", "maximize"]
VALIDATION = "validation"
"""The objective that is the best mean validation of a run; any other is the last value of the metric of that name."""
MOST_TRIALS = 10_000
Values = dict[str, Any]
"""Field of a run -> its value in a trial."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; whole ones where both ends are."""

    low: float
    high: float
    log: bool = False

    def drawn(self, random_numbers: random.Random) -> float:
        """Return a number of the range, each as likely, or each order of magnitude."""
        if isinstance(self.low, int) and isinstance(self.high, int) and not self.log:
            return random_numbers.randint(self.low, self.high)
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        drawn = random_numbers.uniform(*ends)
        value = min(max(math.exp(drawn) if self.log else drawn, self.low), self.high)
        return round(value) if isinstance(self.low, int) and isinstance(self.high, int) else value


@dataclass(frozen=True)
class Sweep:
    """A sweep as its YAML says it. Raises UserError for values that are not allowed."""

    name: str
    """Its trials are runs in output_dir/name."""
    fields: dict[str, Any]
    """Dotted field of a run -> a list of its values, or {low, high, log} for numbers between two."""
    run: str | None = None
    """The run's YAML. None: the one that `genesis-ds train` takes."""
    ds_config: str | None = None
    output_dir: str = "runs/sweeps"
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted fields that have another value than in the run's YAML, in every trial."""
    method: Method = "grid"
    """grid: every combination of the lists; random; tpe: from the trials before (optuna's TPESampler)."""
    trials: int | None = None
    """How many there are; of a grid the first, or all."""
    objective: str = VALIDATION
    direction: Direction = "minimize"
    max_steps: int | None = None
    """The limit of a trial."""
    max_hours: float | None = None
    prune: bool = False
    """Whether a trial is stopped whose best objective so far is worse than the median of those before at that step."""
    seed: int = 0
    hardware: str = "here"
    """The machine on which the memory plan must fit, as `genesis-ds memory --hardware` has it."""

    def __post_init__(self) -> None:
        for key in ("name", "output_dir", "objective", "hardware"):
            require(key, repr(getattr(self, key)), bool(getattr(self, key)) and isinstance(self.name, str), "text")
        require("method", self.method, self.method in get_args(Method), "grid, random or tpe")
        require("direction", self.direction, self.direction in get_args(Direction), "minimize or maximize")
        require("fields", self.fields, isinstance(self.fields, dict) and bool(self.fields), "one field or more")
        require("set", self.set, isinstance(self.set, dict), "fields and their values")
        require_count("seed", self.seed)
        if self.max_steps is not None:
            require_positive("max_steps", self.max_steps)
        if self.max_hours is not None:
            require("max_hours", self.max_hours, self.max_hours > 0, "hours, above 0")
        if self.trials is not None:
            require_positive("trials", self.trials, MOST_TRIALS)
        elif self.method != "grid":
            raise UserError(f"trials: is needed by the method {self.method}; give how many")
        for name in self.fields:
            if isinstance(self.choices(name), Range) and self.method == "grid":
                raise UserError(f"fields: {name}: is a range, and a grid needs lists; give a list, or method: random")
            if name in self.set or name in ("name", "output_dir", "resume"):
                raise UserError(f"fields: {name}: is set by the sweep itself; leave it out")

    @property
    def directory(self) -> Path:
        """Where the runs of the trials are."""
        return Path(expanded(self.output_dir, "output_dir")) / self.name

    def choices(self, name: str) -> list[Any] | Range:
        """Return what a field may be. Raises UserError for what is neither a list nor a range."""
        given = self.fields[name]
        if isinstance(given, list) and given:
            return given
        if isinstance(given, dict) and {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
            low, high = given["low"], given["high"]
            are_numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
            if are_numbers and low < high and (low > 0 or not given.get("log")):
                return Range(low, high, bool(given.get("log")))
        raise UserError(
            f"fields: {name}: give a list of values, or {{low: 1e-4, high: 1e-2, log: true}}, low below high"
        )

    def planned(self) -> list[Values] | None:
        """Return the values of each trial, no two alike; None where they follow from the trials before."""
        if self.method == "tpe":
            return None
        choices = {name: self.choices(name) for name in self.fields}
        if self.method == "grid":
            lists = [of for of in choices.values() if isinstance(of, list)]
            found = [dict(zip(choices, values, strict=True)) for values in itertools.product(*lists)]
            return found[: self.trials]
        random_numbers, drawn = random.Random(self.seed), list[Values]()
        for _ in range(100 * (self.trials or 0)):
            values = {
                name: of.drawn(random_numbers) if isinstance(of, Range) else random_numbers.choice(of)
                for name, of in choices.items()
            }
            if values not in drawn and len(drawn) < (self.trials or 0):
                drawn.append(values)
        return drawn

    def words(self, values: Values, number: int) -> list[str]:
        """Return the flags of `genesis-ds train` and `memory` by which a trial is one run."""
        own: Values = {"config": self.run, "ds_config": self.ds_config}
        own |= {"max_steps": self.max_steps, "max_hours": self.max_hours}
        given = self.set | values | {key: value for key, value in own.items() if value is not None}
        given |= {"name": f"trial-{number:03}", "output_dir": str(self.directory)}
        return [f"--{key}={_word(value)}" for key, value in given.items()]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def load_sweep(path: str) -> Sweep:
    """Read a sweep's YAML. Raises UserError, naming file and key, for what does not fit."""
    given = load_yaml(path, remedy="see docs/comparing.md")
    keys = [each.name for each in fields(Sweep)]
    for key in given.values:
        if key not in keys:
            raise UserError(f"{given.where(key)}: unknown key '{key}'; {nearest(key, keys)}")
    needed = [each.name for each in fields(Sweep) if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in given.values]:
        raise UserError(f"{path}: missing key{'s' * (len(missing) > 1)}: {', '.join(missing)}")
    try:
        return Sweep(**given.values)
    except UserError as error:
        raise UserError(f"{given.where(str(error).partition(':')[0])}: {error}") from None

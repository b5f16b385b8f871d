"""The hook: a class of no-ops. What a hook needs is passed to its constructor; it knows neither trainer nor hooks."""

from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral, Real
from typing import Any

from genesis_ds.analysis.points import Event, Point
from genesis_ds.config.durations import log_spaced
from genesis_ds.hooks.registry import Phase


class Measures(dict[str, float]):
    """Metric name -> value, a number of Python's whatever was given: JSON takes no other.

    A name that is measured twice at a step is an error: one of the two would be lost.
    """

    def __init__(self, measured: Any = ()) -> None:
        super().__init__()
        self.update(measured)

    def __setitem__(self, name: str, value: float) -> None:
        if not isinstance(value, Real):
            raise TypeError(f"the metric {name} is of the type {type(value).__name__}; give it a float")
        if name in self:
            raise ValueError(f"the metric {name} is measured twice at one step; give one of the two another name")
        super().__setitem__(name, int(value) if isinstance(value, Integral) else float(value))

    def __ior__(self, measured: Any) -> "Measures":  # type: ignore[override, misc]
        self.update(measured)
        return self

    def update(self, measured: Any = (), **named: float) -> None:  # type: ignore[override]
        """Add what was measured. Raises ValueError for a name that is there already."""
        for name, value in dict(measured, **named).items():
            self[name] = value


@dataclass
class StepRecord:
    """One optimizer step, as the hooks see it. Those that measure add to it; those that write read it."""

    global_step: int
    n_steps: int
    """Optimizer steps of the whole run."""
    _: KW_ONLY
    is_last: bool = False
    """Whether no step of the run follows, or there is no time for one."""
    seconds: float = 0.0
    """Wall-clock time from the step's first batch to the end of its update; known after it, like what follows."""
    n_tokens: int = 0
    """Tokens this rank has trained on in the step, without padding."""
    learning_rate: float = 0.0
    """The rate that the update used."""
    metrics: dict[str, float] = field(default_factory=Measures)
    texts: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Point] = field(default_factory=dict)
    """Task and language (lm/en) -> what an evaluation at this step found."""
    events: dict[str, list[Event]] = field(default_factory=dict)
    """Task and language -> what has happened to the curve."""
    save_as: str | None = None
    """The name of a checkpoint that a hook wants to be made of this step and kept. Every rank must ask for it: all save
    together."""

    def __post_init__(self) -> None:
        self.is_last |= self.global_step >= self.n_steps
        self.metrics = Measures(self.metrics)

    def due(self, every: int, per_decade: int = 0) -> bool:
        """Return whether it is the last step of the run, or a multiple of `every` steps (0: never).

        With per_decade also at so many log-spaced steps a decade, for as long as these are closer together than every.
        """
        n = self.global_step
        if self.is_last or (every and n % every == 0):
            return True
        return log_spaced(n, per_decade) and not 0 < every < n * (10 ** (1 / per_decade) - 1)


class Hook:
    """Something that happens around the training loop. The loop, in pseudocode:

    before_training(global_step)
    for each optimizer step:
        forward and backward of each micro-batch
        before_update(record)
        update
        on_step(record)
        save a checkpoint when it is due, with state_dict() of every hook
    close()
    """

    phase: Phase = "measure"
    """When a user's own hook has its turn; the registry says it of the built-in ones."""
    version: int = 1
    """Version of the state. A checkpoint's state of another version is left out, with a notice, unless `convert` makes
    one of this version of it."""

    @classmethod
    def build(cls, *context: Any, **options: Any) -> "Hook | None":
        """Return the hook of a run, given its HookContext, or None where the run has no use for it.

        options: what the configuration says under hooks.NAME; `context.run.steps` makes steps of a duration in epochs.
        """
        raise NotImplementedError(f"{cls.__name__} says nothing of how it is built for a run")

    def before_training(self, global_step: int) -> None:
        """Measure the model as it is before the first step that is trained, once, on every rank.

        global_step: the step that the run goes on from, 0 in a new one. The hook has its state of the checkpoint.
        """

    def before_update(self, record: StepRecord) -> None:
        """Prepare for the update, after the last backward of every optimizer step, with its gradients at hand.

        Every rank calls it. What the update will take is not yet in the record; which step it is, and whether it is the
        last one, is.
        """

    def on_step(self, record: StepRecord) -> None:
        """Measure or write, after every optimizer step, on every rank."""

    def close(self) -> None:
        """Let go of what is open, once, when training ends for whatever reason."""

    def state_dict(self) -> dict[str, Any]:
        """Return the JSON-able state that a checkpoint keeps."""
        return {}

    def convert(self, state: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Return a checkpoint's state of another version as one of this version; None where the hook begins anew."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

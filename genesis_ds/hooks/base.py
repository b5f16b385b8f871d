"""The hook: a class of no-ops. What a hook needs is passed to its constructor; it knows neither trainer nor hooks."""

from dataclasses import dataclass, field
from typing import Any

from genesis_ds.analysis.grokking import Event, Point
from genesis_ds.config.durations import Duration, log_spaced, steps


@dataclass
class StepRecord:
    """One optimizer step, as the hooks see it. Producers add to metrics and texts; writers read them."""

    global_step: int
    max_steps: int
    seconds: float
    """Wall-clock time of the step's forward, backward and update."""
    n_tokens: int = 0
    """Tokens this rank has trained on in the step, without padding."""
    learning_rate: float = 0.0
    is_last: bool = False
    """No step of the run follows, or there is no time for one."""
    metrics: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Point] = field(default_factory=dict)
    """Task and language (lm/en) -> what an evaluation at this step found."""
    events: dict[str, list[Event]] = field(default_factory=dict)
    """The same keys -> what has happened to the curve."""
    save_as: str | None = None
    """The name of a checkpoint that a hook wants to be made of this step and kept."""

    def __post_init__(self) -> None:
        self.is_last |= self.global_step >= self.max_steps

    def due(self, every: Duration, per_decade: int = 0) -> bool:
        """True at the last step of the run and every so many steps (0: never).

        With per_decade also at so many log-spaced steps a decade, for as long as these are closer together than every.
        """
        n, every = self.global_step, steps(every)
        if self.is_last or (every and n % every == 0):
            return True
        return log_spaced(n, per_decade) and not 0 < every < n * (10 ** (1 / per_decade) - 1)


class Hook:
    """
    The loop, in pseudocode:

        for each optimizer step:
            forward and backward of each micro-batch
            before_update(global_step, max_steps)
            update
            on_step(record)
            save a checkpoint when it is due, with state_dict() of every hook
        close()
    """

    def before_update(self, global_step: int, max_steps: int) -> None:
        """After the last backward of every optimizer step, with its gradients at hand, on every rank."""

    def on_step(self, record: StepRecord) -> None:
        """After every optimizer step, on every rank."""

    def close(self) -> None:
        """Once, when training ends for whatever reason."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state that a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

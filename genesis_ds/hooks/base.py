"""The hook: a class of no-ops. What a hook needs is passed to its constructor; it knows neither trainer nor hooks."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class StepRecord:
    """One optimizer step, as the hooks see it. Producers add to metrics and texts; writers read them."""

    global_step: int
    max_steps: int
    seconds: float
    """Wall-clock time of the step's forward, backward and update."""
    n_tokens: int = 0
    """Tokens this rank has trained on in the step, without padding."""
    metrics: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def due(self, every: int) -> bool:
        """True every so many steps (0: never) and at the last step of the run."""
        return self.global_step == self.max_steps or (every > 0 and self.global_step % every == 0)


class Hook:
    """
    The loop, in pseudocode:

        for each optimizer step:
            forward, backward, update
            on_step(record)
            save a checkpoint when it is due, with state_dict() of every hook
        close()
    """

    def on_step(self, record: StepRecord) -> None:
        """After every optimizer step, on every rank."""

    def close(self) -> None:
        """Once, when training ends for whatever reason."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state that a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

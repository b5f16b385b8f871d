"""Another tracker is one hook: this one writes a run for Weights & Biases, without a network where mode is offline."""

from typing import Any, Literal

from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext


class Wandb(Hook):
    """Logs every measure of a step, and the samples."""

    phase = "write"  # the last turn, on the main rank alone

    def __init__(self, **settings: Any) -> None:
        import wandb

        self.run = wandb.init(**settings)

    @classmethod
    def build(cls, context: HookContext, project: str, mode: Literal["offline", "online"] = "offline") -> "Wandb":
        """Return the hook of a run; a resumed one goes on in the same run of the tracker."""
        config = context.run.config
        return cls(
            project=project,
            mode=mode,
            name=config.name,
            id=config.name,
            resume="allow",
            config=context.run.to_dict(),
            dir=str(context.metrics_file.parent),
        )

    def on_step(self, record: StepRecord) -> None:
        if record.metrics or record.texts:
            self.run.log({**record.metrics, **record.texts}, step=record.global_step)

    def close(self) -> None:
        self.run.finish()

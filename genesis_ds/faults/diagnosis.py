"""Steps without an update: the reason for each, and the diagnosis when there are too many in a row."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from genesis_ds.disk import warn, write_text
from genesis_ds.engine.distributed import gather
from genesis_ds.engine.engine import Engine
from genesis_ds.errors import UserError
from genesis_ds.faults.watching import watching
from genesis_ds.stored import read_stored
from genesis_ds.tasks.base import Losses

MicroBatches = Iterable[tuple[str, Callable[[], Losses]]]
"""The task of each micro-batch of a step on this rank, and its forward pass."""


def why_skipped(losses: list[list[tuple[str, float]]]) -> str:
    """Return what is not finite in a step, in words. losses: of each rank, the task and loss of its micro-batches."""
    for index, of_ranks in enumerate(zip(*losses, strict=True)):
        for rank, (task, loss) in enumerate(of_ranks):
            if not isfinite(loss):
                return f"the loss of micro-batch {index + 1} of {len(losses[0])} ({task}) on rank {rank} is {loss}"
    largest = max(loss for of_rank in losses for _, loss in of_rank)
    return f"the gradient is not finite (the losses are, up to {largest:.4g})"


@dataclass(frozen=True)
class Origin:
    """Where a step that is computed again is first not finite."""

    kind: Literal["activation", "loss", "gradient"]
    name: str
    """Name of the module, the task or the parameter."""
    micro_batch: int
    """Number of the micro-batch, the first being 0."""
    task: str
    rank: int

    def __str__(self) -> str:
        what = {
            "activation": f"the output of {self.name}",
            "loss": f"the loss of {self.name}, whose activations are finite",
            "gradient": f"the gradient of {self.name}; activations and losses are finite",
        }[self.kind]
        return f"{what} (micro-batch {self.micro_batch + 1}, {self.task}, rank {self.rank})"


def find_origin(engine: Engine, micro_batches: MicroBatches) -> Origin | None:
    """Compute a step again, without its update, until something is not finite on a rank; None where all is finite.

    Every rank calls it. The engine is of no use for training afterwards.
    """
    if engine.compiled_blocks:
        engine.compiled_blocks.switch_off()
    for index, (task, forward) in enumerate(micro_batches):
        with watching(engine.model) as watched:
            loss = forward().total
            seen = gather((watched.activation, isfinite(loss.detach())))
            for rank, (activation, is_finite) in enumerate(seen):
                if activation:
                    return Origin("activation", activation, micro_batch=index, task=task, rank=rank)
                if not is_finite:
                    return Origin("loss", task, micro_batch=index, task=task, rank=rank)
            engine.backward(loss)
            for rank, gradient in enumerate(gather(watched.gradient)):
                if gradient:
                    return Origin("gradient", gradient, micro_batch=index, task=task, rank=rank)
    return None


@dataclass(frozen=True)
class Diagnosis:
    """The reason why too many steps in a row had no update."""

    global_step: int
    """The last of these steps."""
    skipped: list[list[int]]
    """The samples of each step, as global positions [start, end); the last step is the one that was computed again."""
    reason: str
    """What was not finite in the last step, in words."""
    origin: Origin | None
    faulty_weights: list[str]
    """Parameters that are not finite."""
    learning_rate: float

    @property
    def last_update(self) -> int:
        """The last step that had an update."""
        return self.global_step - len(self.skipped)

    def found(self) -> str:
        """Return where the fault comes from, in words."""
        if names := self.faulty_weights:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"the weights {names[0]}{others} are not finite; then {self.origin or 'nothing else'}"
        if self.origin:
            return f"first not finite: {self.origin}"
        return (
            "computed again, each micro-batch is finite: the sum of their gradients overflows, or the fault does not "
            "repeat itself (hardware?)"
        )

    def samples(self) -> str:
        """Return which samples the skipped steps had, in words."""
        return f"samples {self.skipped[0][0]:,} to {self.skipped[-1][1] - 1:,}"

    def report(self, checkpoint: Path | None, rewinds: int) -> list[str]:
        """Return what to say when the run stops. checkpoint: the last good one. rewinds: how often it has gone back."""
        lines = [f"error: {self.reason}", f"  {self.found()}"]
        lines.append(f"  data: {self.samples()}; learning rate {self.learning_rate:.3g}; rewinds so far: {rewinds}")
        lower = "lower optimizer.lr or optimizer.gradient_clipping, or begin with more schedule.warmup_steps"
        if checkpoint is None:
            return [*lines, f"  no good checkpoint yet; start anew with another --name, and {lower}"]
        lines.append(f"  last good checkpoint: {checkpoint}")
        again = f"start the run again with --resume {checkpoint} this once"
        return [*lines, f"  {again}; {lower}; or leave this data out: --faults.max_rewinds {rewinds + 1}"]

    def write(self, path: Path, action: str) -> None:
        """Add the diagnosis to the list in the file, with what is done about it."""
        earlier: list[Any] = []
        if path.exists():
            try:
                earlier = read_stored(path, list[Any], "it was moved aside")
            except UserError as error:
                path.replace(path.with_name(f"{path.name}.damaged"))
                warn(str(error))
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "action": action,
            "found": self.found(),
            **asdict(self),
        }
        write_text(path, json.dumps([*earlier, entry], indent=1, ensure_ascii=False) + "\n")

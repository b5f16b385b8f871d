"""Losses, gradient norms and counts of each task's micro-batches since the last report."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.engine.distributed import sum_over_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.tasks.base import Batch, Losses, Task

Sums = dict[str, list[float]]
"""Task -> [micro-batches, tokens, sum of losses, sum of gradient norms, *examples by kind, *right ones by kind],
and for each of its extra losses the micro-batches that had it and their sum."""


def sums_of_rank(saved: list[Sums], ranks: Ranks) -> Sums | None:
    """Return what a rank takes up of the sums that all ranks have saved.

    That is its own; where the number of ranks has changed, the main rank takes all: only their sum is reported.
    """
    if len(saved) == ranks.world_size:
        return saved[ranks.rank]
    if not saved or not ranks.is_main:
        return None
    return {task: [sum(parts) for parts in zip(*(sums[task] for sums in saved), strict=True)] for task in saved[0]}


class TaskStats:
    """The sums of each task over the steps that had an update, kept on the device so that nothing waits for them."""

    def __init__(self, tasks: Mapping[str, Task], device: torch.device, sums: Sums | None = None) -> None:
        """sums: those that this rank takes up from a checkpoint."""
        self.tasks, self.device = tasks, device
        self.sums = {}
        for name, task in tasks.items():
            fresh = [0.0] * (4 + 2 * len(task.kinds) + 2 * len(task.extra_losses))
            before = (sums or {}).get(name, [])  # without extra losses, of before there were any
            self.sums[name] = torch.tensor([*before, *fresh[len(before) :]], dtype=torch.float64, device=device)
        self.step = {name: torch.zeros_like(sums) for name, sums in self.sums.items()}

    def add(self, task: Task, batch: Batch, *, losses: Losses, gradient_norm: Tensor) -> None:
        """Add one micro-batch. gradient_norm: of its loss with respect to the trunk's final hidden states."""
        sums = self.step[task.name]
        sums[0] += 1
        sums[1] += batch.n_tokens
        sums[2] += losses.reported.detach()
        sums[3] += gradient_norm
        extra = 4 + 2 * len(task.kinds)
        if losses.right is not None and task.kinds:
            of_kind = batch.labels["kinds"][:, None] == torch.arange(len(task.kinds), device=self.device)
            sums[4:extra] += torch.cat([of_kind.sum(0), (of_kind & losses.right[:, None]).sum(0)])
        for name, loss in losses.extra.items():
            at = extra + 2 * task.extra_losses.index(name)
            sums[at] += 1
            sums[at + 1] += loss.detach()

    def end_step(self, was_update: bool) -> None:
        """Count the step's micro-batches where it was an update; else forget them, as their sums are not finite."""
        for name, sums in self.step.items():
            if was_update:
                self.sums[name] += sums
            sums.zero_()

    def report(self) -> dict[str, float]:
        """Return the measures over all ranks since the last report, and begin anew. Every rank calls it.

        The loss is nan where no step since then was an update.
        """
        found: dict[str, float] = {}
        total_loss = n_batches = 0.0
        for name, task in self.tasks.items():
            n, tokens, loss, gradient_norm, *counts = sum_over_ranks(self.sums[name].tolist(), self.device)
            self.sums[name].zero_()
            if not n:
                continue
            total_loss, n_batches = total_loss + loss, n_batches + n
            found[metrics.of_task(metrics.TRAIN_LOSS, name)] = loss / n
            found[metrics.of_task(metrics.TRAIN_GRAD_NORM, name)] = gradient_norm / n
            found[metrics.of_task(metrics.TRAIN_TOKENS, name)] = tokens
            n_kinds = len(task.kinds)
            seen, right, extra = counts[:n_kinds], counts[n_kinds : 2 * n_kinds], counts[2 * n_kinds :]
            for part, times, total in zip(task.extra_losses, extra[::2], extra[1::2], strict=True):
                if times:
                    found[metrics.extra_loss(part, name)] = total / times
            if sum(seen):
                accuracy = metrics.of_task(metrics.TRAIN_ACCURACY, name)
                found[accuracy] = sum(right) / sum(seen)
                shares = zip(task.kinds, seen, right, strict=True)
                found |= {f"{accuracy}/{kind}": good / all_ for kind, all_, good in shares if all_}
        return {metrics.TRAIN_LOSS: total_loss / n_batches if n_batches else math.nan, **found}

    def state(self) -> Sums:
        """Return this rank's sums, for a checkpoint."""
        return {name: sums.tolist() for name, sums in self.sums.items()}

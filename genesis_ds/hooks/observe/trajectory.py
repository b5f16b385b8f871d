"""Trajectory: norms of the weights, gradients and updates, size of the logits, rank of the hidden states."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.spectrum import effective_rank
from genesis_ds.data.arithmetic import Equations
from genesis_ds.data.token_set import TokenSet
from genesis_ds.engine.step_meter import StepMeter, StepNorms
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import LM
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.lm import evaluation_windows, evenly_spaced

GRADIENT_RATIO_BOUNDS = (0.3, 3.0)
"""Bounds of the first layer's gradient norm to the last's in a DeepNorm model. Before training it is 0.65 to 1 at 8 to
144 layers, where pre-norm has 3.5 to 21 and post-norm 2.3 to 1000. Sound runs leave the bounds for single steps: 300
steps of the quickstart had 0.11 to 1.0, 5 of 31 measurements below 0.3."""
MAX_LAYERS = 5
"""Layers, the first and the last among them, whose norms a record has, which takes 1 kB."""
MAX_WINDOWS = 16
"""Windows of text, in all languages together."""
MAX_STATES = 1024
"""Hidden states whose effective rank is computed, by a singular value decomposition."""

LogitsAndStates = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Token ids [B, T] -> logits [B, T, V] and final hidden states [B, T, D]."""


@dataclass(frozen=True)
class Probe:
    """A batch that stays the same throughout the run."""

    tokens: Tensor
    """int64 [n, T]."""
    seen: Tensor
    """bool [n, T]: the positions that are measured, those with something to predict."""

    @classmethod
    def of_text(cls, token_set: TokenSet, seq_len: int) -> "Probe":
        """Return windows of every language, evenly spaced over val_chapter."""
        tokens, targets = windows_of_tier(token_set, "val_chapter", seq_len)
        return cls(tokens, targets != IGNORE)

    @classmethod
    def of_arithmetic(cls, equations: Equations) -> "Probe":
        """Return the first equations, which stand in random order, measured at the sign before the answer."""
        tokens = torch.from_numpy(equations.tokens[:MAX_STATES])
        return cls(tokens, torch.arange(tokens.shape[1]).eq(tokens.shape[1] - 1).expand(tokens.shape))

    def measure(
        self, logits_and_states: LogitsAndStates, micro_batch_size: int, device: torch.device
    ) -> dict[str, float]:
        """Return the root mean square of the logits and the effective rank of the hidden states, by metric name.

        Nothing for an empty batch. Every rank computes the whole: ZeRO-3 needs all of them in a forward pass.
        """
        squares, n_logits, found = 0.0, 0, []
        for rows in torch.arange(len(self.tokens)).split(micro_batch_size):
            outputs = logits_and_states(self.tokens[rows].to(device))
            logits, states = (output[self.seen[rows].to(device)] for output in outputs)
            squares += float(torch.linalg.vector_norm(logits, dtype=torch.float32)) ** 2
            n_logits += logits.numel()
            found.append(states.float().cpu())
        if not n_logits:
            return {}
        states = torch.cat(found)
        chosen = states[evenly_spaced(len(states), MAX_STATES)].numpy()
        with threadpool_limits(1):  # threads of BLAS take seconds where other processes use the cores
            rank = effective_rank(chosen) if np.isfinite(chosen).all() else nan
        return {metrics.LOGIT_RMS: (squares / n_logits) ** 0.5, metrics.EFFECTIVE_RANK: rank}


def windows_of_tier(token_set: TokenSet, tier: str, seq_len: int) -> tuple[Tensor, Tensor]:
    """Return tokens and targets, int64 [n, T], of at most MAX_WINDOWS windows of every language, evenly spaced."""
    each = -(-MAX_WINDOWS // len(token_set.languages))
    streams = [token_set.stream(tier, language) for language in token_set.languages]
    batches = [evaluation_windows(stream, seq_len, each) for stream in streams]
    tokens = torch.cat([batch.inputs["tokens"] for batch in batches])
    targets = torch.cat([batch.labels["targets"] for batch in batches])
    chosen = evenly_spaced(len(tokens), MAX_WINDOWS)
    return tokens[chosen], targets[chosen]


@dataclass
class RatioWatch:
    """Watches whether the gradient ratio of a DeepNorm model stays where DeepNorm keeps it."""

    outside: bool = False

    def watch(self, ratio: float) -> str | None:
        """Return what to say of the next ratio when it leaves its bounds or returns to them; None otherwise."""
        low, high = GRADIENT_RATIO_BOUNDS
        before, self.outside = self.outside, not low <= ratio <= high
        if self.outside == before:
            return None
        says, bounds = f"the first layer's gradient is {ratio:.3g} times the last's", f"{low:g} to {high:g}"
        if self.outside:
            return f"{says}, outside {bounds}; if it stays there, check model.init and optimizer.lr"
        return f"{says}, again within {bounds}"


class Trajectory(Hook):
    """Measures weight norm, logit RMS, effective rank of the final states, and gradient and update norms by layer.

    It does so at the first step, at every so many, and at the last. gradient_ratio and update_ratio are the first
    layer's norm to the last layer's.
    """

    def __init__(
        self,
        *,
        meter: StepMeter,
        logits_and_states: LogitsAndStates,
        evaluating: Callable[[], AbstractContextManager[None]],
        probe: Probe | None,
        every: int,
        micro_batch_size: int,
        is_deepnorm: bool,
        device: torch.device,
    ) -> None:
        self.meter, self.logits_and_states, self.evaluating, self.probe = meter, logits_and_states, evaluating, probe
        self.every, self.micro_batch_size, self.device = every, micro_batch_size, device
        self.ratio_watch = RatioWatch() if is_deepnorm else None
        self.armed = False

    @classmethod
    def build(cls, context: HookContext) -> "Trajectory | None":
        """Return the hook of a run."""
        run, engine = context.run, context.engine
        if not run.intervals.trajectory:
            return None
        if LM not in run.tasks:
            probe = None
        elif context.text:
            probe = Probe.of_text(context.text.token_set, run.config.batch.seq_len)
        else:
            probe = Probe.of_arithmetic(context.arithmetic.table.validation)
        return cls(
            meter=engine.meter,
            logits_and_states=engine.logits_and_states,
            evaluating=engine.evaluating,
            probe=probe,
            every=run.intervals.trajectory,
            micro_batch_size=run.config.batch.micro_batch_size,
            is_deepnorm=run.model.norm == "deepnorm" and run.config.extensions.model is None,
            device=engine.device,
        )

    def before_update(self, record: StepRecord) -> None:
        self.armed = record.global_step == 1 or record.due(self.every)
        if self.armed:
            self.meter.arm()

    def on_step(self, record: StepRecord) -> None:
        if self.armed:
            if norms := self.meter.take():
                self._record(norms, record)
            if self.probe:
                with self.evaluating():
                    record.metrics |= self.probe.measure(self.logits_and_states, self.micro_batch_size, self.device)

    def state_dict(self) -> dict[str, Any]:
        return vars(self.ratio_watch) if self.ratio_watch else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.ratio_watch:
            self.ratio_watch = RatioWatch(**state)

    def _record(self, norms: StepNorms, record: StepRecord) -> None:
        for layer in evenly_spaced(len(norms.gradients), MAX_LAYERS):
            record.metrics[metrics.of_layer(metrics.LAYER_GRADIENT, layer)] = norms.gradients[layer]
            record.metrics[metrics.of_layer(metrics.LAYER_UPDATE, layer)] = norms.updates[layer]
        gradient_ratio, update_ratio = _first_to_last(norms.gradients), _first_to_last(norms.updates)
        record.metrics |= {
            metrics.WEIGHT_NORM: norms.weights,
            metrics.GRADIENT_RATIO: gradient_ratio,
            metrics.UPDATE_RATIO: update_ratio,
            metrics.UPDATE_COSINE: norms.cosine,
        }
        if self.ratio_watch and (text := self.ratio_watch.watch(gradient_ratio)):
            record.texts[metrics.GRADIENT_LEVEL] = text


def _first_to_last(norms: list[float]) -> float:
    return norms[0] / norms[-1] if norms[-1] else nan

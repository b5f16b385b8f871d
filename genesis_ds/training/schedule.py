"""The learning rate."""

import math

from genesis_ds.config import ScheduleConfig
from genesis_ds.config.durations import steps


def learning_rate_factor(config: ScheduleConfig, max_steps: int, step: int) -> float:
    """The factor on the peak learning rate at the optimizer step `step` (the first is 0).

    Linear warm-up that reaches 1 at step warmup_steps - 1; then constant, or a cosine from 1 down to min_lr_ratio at
    the last step (arXiv 1608.03983, without restarts).
    """
    warmup_steps = steps(config.warmup_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.kind == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine

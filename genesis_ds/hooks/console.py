"""The run on the console."""

import time
from datetime import timedelta

from genesis_ds import metrics
from genesis_ds.hooks.base import Hook, StepRecord


class Console(Hook):
    """One line per report, with the time left; evaluations and samples below it."""

    def __init__(self, first_step: int) -> None:
        self.first_step, self.started = first_step, time.monotonic()

    def on_step(self, record: StepRecord) -> None:
        measured = record.metrics
        if metrics.TRAIN_LOSS in measured:
            print(self._progress(record), flush=True)
        for name, value in measured.items():
            if name.startswith("val/") or name in (metrics.GPU_PREDICTED, metrics.HOST_PREDICTED):
                print(f"  {name:<44} {value:.4f}", flush=True)
        for name, text in record.texts.items():
            print(f"  {name}: {text!r}", flush=True)

    def _progress(self, record: StepRecord) -> str:
        measured = record.metrics
        pace = (time.monotonic() - self.started) / (record.global_step - self.first_step)
        left = timedelta(seconds=round(pace * (record.max_steps - record.global_step)))
        columns = [
            f"step {record.global_step}/{record.max_steps}",
            f"epoch {measured[metrics.EPOCH]:.2f}",
            f"loss {measured[metrics.TRAIN_LOSS]:.4f}",
            f"lr {measured[metrics.LEARNING_RATE]:.2e}",
        ]
        if metrics.GRAD_NORM in measured:
            columns.append(f"grad {measured[metrics.GRAD_NORM]:.3f}")
        columns.append(f"{measured[metrics.TOKENS_PER_SECOND]:,.0f} tokens/s")
        if metrics.GPU_PEAK in measured:
            columns.append(f"gpu {measured[metrics.GPU_PEAK]:.2f} GiB")
        columns += [f"host {measured[metrics.HOST_PEAK]:.2f} GiB", f"left {left}"]
        return "  ".join(columns)

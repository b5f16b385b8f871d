"""Time and peak memory of this process, phase by phase."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from genesis_ds.engine.distributed import accelerator


def host_bytes() -> int:
    """Resident host memory of this process, files not counted: anonymous pages and shared ones (pinned memory)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


class HostSampler:
    """The highest host_bytes() since the last look, sampled by a thread every few milliseconds."""

    def __init__(self, interval_seconds: float = 0.02) -> None:
        self._peak = host_bytes()
        self._lock = threading.Lock()
        """Held from a look to its entry, so that a peak of before `take_peak` is not entered after it."""
        self._stop = threading.Event()
        self._interval = interval_seconds
        threading.Thread(target=self._sample, daemon=True, name="host memory sampler").start()

    def take_peak(self) -> int:
        """The peak in bytes since the last call; the next one starts at the present level."""
        with self._lock:
            now = host_bytes()
            peak, self._peak = max(self._peak, now), now
        return peak

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                self._peak = max(self._peak, host_bytes())


@dataclass
class Phase:
    """What a phase took so far; bytes are the highest of all its passes."""

    seconds: float = 0.0
    passes: int = 0
    gpu_allocated: int = 0
    gpu_reserved: int = 0
    host: int = 0


class Meter:
    """Measures named phases: `with meter("forward"): ...`. Synchronises the GPU at both ends."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self._host = HostSampler()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        cuda = accelerator() == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._host.take_peak()
        started = time.perf_counter()
        yield
        if cuda:
            torch.cuda.synchronize()
        phase = self.phases.setdefault(name, Phase())
        phase.seconds += time.perf_counter() - started
        phase.passes += 1
        phase.host = max(phase.host, self._host.take_peak())
        if cuda:
            phase.gpu_allocated = max(phase.gpu_allocated, torch.cuda.max_memory_allocated())
            phase.gpu_reserved = max(phase.gpu_reserved, torch.cuda.max_memory_reserved())

    def restart(self, name: str) -> None:
        """Forget the time of a phase, keep its peaks."""
        self.phases[name].seconds, self.phases[name].passes = 0.0, 0

    def close(self) -> None:
        """End the sampling."""
        self._host.close()

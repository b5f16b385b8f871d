"""The memory of one device over a run, buffer by buffer; and the steps that the plan is made of.

A peak is where the running total is highest, never a sum of parts that are not alive together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Alloc:
    """A buffer comes to life."""

    key: str
    """Its name, unique while it is alive."""
    cause: str
    """What a breakdown counts it under."""
    nbytes: int
    device: Literal["gpu", "host"] = "gpu"
    """Whose memory it is."""


@dataclass(frozen=True)
class Free:
    """A buffer dies."""

    key: str


@dataclass(frozen=True)
class Ready:
    """Backward has computed the gradient of a parameter."""

    parameter: str


@dataclass(frozen=True)
class Enter:
    """Execution enters a module (base.tok_embeddings, base.layers.N, base.norm, base.output or heads.<task>), forward,
    backward or recomputing."""

    module: str


@dataclass(frozen=True)
class Leave:
    """Execution leaves a module."""

    module: str


Step = Alloc | Free | Ready | Enter | Leave


@dataclass(frozen=True)
class Peak:
    """The highest point of a timeline."""

    nbytes: int
    phase: str
    breakdown: dict[str, int]
    """Bytes alive at the peak by cause, largest first."""


class Timeline:
    """Replays allocations and frees of one device and remembers where the total was highest."""

    def __init__(self, rounding: Callable[[int], int] = int) -> None:
        """rounding: bytes asked for -> bytes taken."""
        self.rounding = rounding
        self.phase = "init"
        self.allocated = 0
        self.log: list[tuple[str, str, int]] = []
        """(phase, key, bytes taken, negative where freed) in order."""
        self._alive: dict[str, tuple[str, int]] = {}
        self._by_cause: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._first_highest = 0, self.phase
        self._breakdowns: dict[str, dict[str, int]] = {}

    def alloc(self, key: str, cause: str, nbytes: float) -> None:
        """Make a buffer of nbytes (rounded up) named key alive from now on; 0 bytes are no buffer."""
        taken = self.rounding(math.ceil(nbytes))
        if not taken:
            return
        assert key not in self._alive, f"{key} is alive already"
        self._alive[key] = cause, taken
        self._add(key, cause, taken)

    def grow(self, key: str, cause: str, nbytes: int) -> None:
        """Make a buffer of nbytes alive, where one of that name is alive and smaller by what it lacks."""
        _, held = self._alive.get(key, (cause, 0))
        taken = self.rounding(nbytes)
        if taken > held:
            self._alive[key] = cause, taken
            self._add(key, cause, taken - held)

    def free(self, key: str) -> None:
        """End the life of a buffer; nothing happens where none of that name is alive (it had 0 bytes)."""
        if key in self._alive:
            self._remember()
            cause, taken = self._alive.pop(key)
            self._add(key, cause, -taken)

    def empty_cache(self) -> None:
        """Give back what is cached and not in use (torch.cuda.empty_cache): a change of 0 bytes in the log."""
        self.log.append((self.phase, "", 0))

    def view(self, prefix: str) -> "Timeline":
        """Return this timeline under other names, prefix + key here: for two devices in one memory."""
        return _View(self, prefix)

    def start(self, phase: str) -> None:
        """Begin a phase: what follows belongs to it, and what is alive now is its first level."""
        self._remember()
        self.phase = phase

    def peak(self, phase: str | None = None) -> Peak:
        """Return the highest point of a phase, or of all (the one reached first where several are as high)."""
        self._remember()
        chosen = phase or self._first_highest[1]
        breakdown = sorted(self._breakdowns.get(chosen, {}).items(), key=lambda item: -item[1])
        return Peak(self._highest.get(chosen, 0), chosen, dict(breakdown))

    def _add(self, key: str, cause: str, change: int) -> None:
        self.allocated += change
        self._by_cause[cause] = self._by_cause.get(cause, 0) + change
        self.log.append((self.phase, key, change))

    def _remember(self) -> None:
        """Totals fall only at a free, so looking just before one (and at the end of a phase) sees every peak."""
        if self.allocated > self._highest.get(self.phase, -1):
            self._highest[self.phase] = self.allocated
            self._first_highest = max(self._first_highest, (self.allocated, self.phase), key=lambda level: level[0])
            self._breakdowns[self.phase] = {cause: nbytes for cause, nbytes in self._by_cause.items() if nbytes}


class _View(Timeline):
    """A timeline whose buffers live in another one, under a prefix."""

    def __init__(self, whole: Timeline, prefix: str) -> None:
        super().__init__(whole.rounding)
        self.whole, self.prefix = whole, prefix

    def alloc(self, key: str, cause: str, nbytes: float) -> None:
        self.whole.alloc(self.prefix + key, cause, nbytes)

    def grow(self, key: str, cause: str, nbytes: int) -> None:
        self.whole.grow(self.prefix + key, cause, nbytes)

    def free(self, key: str) -> None:
        self.whole.free(self.prefix + key)

    def empty_cache(self) -> None:
        self.whole.empty_cache()

    def start(self, phase: str) -> None:
        self.whole.start(phase)

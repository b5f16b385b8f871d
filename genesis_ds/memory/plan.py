"""A memory plan as data: what one rank needs of its GPU and of its host. Sizes are bytes."""

from dataclasses import dataclass, field
from typing import Literal

from genesis_ds.memory.machine.hardware import Hardware

Device = Literal["gpu", "host"]


@dataclass(frozen=True)
class DevicePlan:
    """One device of one rank."""

    capacity_bytes: int
    """What the card, or the node, has; 0: there is no such device."""
    usable_bytes: int
    """What peak_bytes may reach."""
    allocated_peak_bytes: int
    """The most that tensors hold at once."""
    peak_bytes: int
    """What must fit: on a GPU what torch reserves and what is outside it; on the host the process and its tensors."""
    phase: str
    """In which the peak falls."""
    breakdown: dict[str, int]
    """Bytes at the peak by cause; they add up to peak_bytes."""
    phases: dict[str, int]
    """The peak of each phase, in the order of the phases."""
    curve: list[tuple[str, int]]
    """(phase, bytes held) at the start of each phase and after each event through one step, in order."""

    def __post_init__(self) -> None:
        assert sum(self.breakdown.values()) == self.peak_bytes, "the breakdown does not add up to the peak"

    @property
    def left_bytes(self) -> int:
        """What stays free at the peak; negative: what is missing."""
        return self.usable_bytes - self.peak_bytes

    @property
    def fits(self) -> bool:
        """Whether the peak stays within what is usable."""
        return self.left_bytes >= 0

    @property
    def load(self) -> float:
        """The peak as a share of what is usable."""
        return self.peak_bytes / self.usable_bytes if self.usable_bytes else float(self.peak_bytes > 0)


@dataclass(frozen=True)
class Plan:
    """A model, a run and a machine, and what that takes."""

    parameters: int
    model: str
    """The model in a line."""
    run: str
    """The run (ds_config, batch, precision, checkpointing) in a line."""
    hardware: Hardware
    gpu: DevicePlan
    host: DevicePlan
    advice: list[str] = field(default_factory=list)
    """The changes that would make it fit, or faster; the cheapest first."""
    speed: list[str] = field(default_factory=list)
    """How long a step takes and what it sends, where that is predicted."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of how the numbers came about."""
    teacher: Device | None = None
    """Where the run's teacher is computed; None: it has none."""
    is_whole: bool = True
    """Whether activations are counted; of a user's own model that no trace gets through only weights are."""

    @property
    def fits(self) -> bool:
        """Whether both devices hold it."""
        return self.gpu.fits and self.host.fits

    @property
    def binds(self) -> Device:
        """The device that runs out first: the one with the higher load."""
        return "gpu" if self.gpu.load > self.host.load else "host"


@dataclass(frozen=True)
class TableRow:
    """A shipped preset under a shipped ds_config."""

    preset: str
    ds_config: str
    plan: Plan | None
    problem: str = ""
    """Why there is no plan."""

"""What a plan says of speed: a step's time, what it sends, the fastest shipped ds_config, other numbers of ranks."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.config.parse import DEFAULT_DS_CONFIG
from genesis_ds.errors import UserError
from genesis_ds.memory.answers.report import BF16_COSTS, columns
from genesis_ds.memory.answers.step_time import (
    PCIE_4,
    PCIE_BYTES_PER_SECOND,
    SHARE_OF_LINK,
    SHARE_OF_PEAK,
    StepTime,
    step_time,
)
from genesis_ds.memory.deepspeed.traffic import collectives
from genesis_ds.memory.machine.hardware import Hardware, format_bytes
from genesis_ds.memory.scenario import Scenario

MOST_RANKS = 1024
"""Of the table of --scaling."""


@dataclass(frozen=True)
class Speed:
    """What is predicted of a scenario's speed."""

    hardware: Hardware
    step: StepTime | None
    sent: dict[str, float] | None
    """Kind of collective -> bytes that a rank sends in a step; None where that is not known."""
    fastest: str = ""
    """The shipped ds_config with the shortest step of those that fit; "" where none is known to."""

    @classmethod
    def of(cls, scenario: Scenario) -> "Speed":
        """Predict what can be."""
        run, hardware = scenario.sized(), scenario.hardware
        step = step_time(run, hardware)
        sent = sent_bytes(scenario)
        return cls(hardware, step, sent, fastest_shipped(scenario) if step else "")

    def lines(self) -> list[str]:
        """Return it for people."""
        lines = [str(self.step)] if self.step else []
        if self.sent:
            kinds = ", ".join(f"{kind} {format_bytes(nbytes)}" for kind, nbytes in self.sent.items())
            lines.append(f"each rank sends in a step: {kinds}")
        if self.sent is None:
            lines.append("what ranks send is not counted with quantized or hierarchical ZeRO-3")
        if self.step:
            costs = f"; masters and moments are in bf16 there: {BF16_COSTS}" * self.fastest.endswith("_bf16")
            fastest = f"of the shipped ds_configs that fit the fastest is {self.fastest}{costs}"
            lines.append(fastest if self.fastest else "no shipped ds_config whose speed is predicted fits")
            lines.append(_rates(self.hardware))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs; the keys are stable."""
        found: dict[str, Any] = {"sent_bytes": self.sent}
        if self.step:
            found["step"] = dataclasses.asdict(self.step) | {"seconds": self.step.seconds}
            found["fastest_ds_config"] = self.fastest
        return found


def shipped_ds_configs() -> list[Path]:
    """Return the files of the ds_configs that come with this package."""
    return sorted(DEFAULT_DS_CONFIG.parent.glob("*.json"))


def sent_bytes(scenario: Scenario) -> dict[str, float] | None:
    """Return {kind of collective: bytes that a rank sends in a step}; None where that is not known."""
    hardware = scenario.hardware
    calls = collectives(scenario.sized(), hardware.world_size, gpu=hardware.has_gpu)
    if calls is None:
        return None
    kinds = dict.fromkeys(call.kind for call in calls)
    return {kind: sum(c.sent_bytes(hardware.world_size) for c in calls if c.kind == kind) for kind in kinds}


def fastest_shipped(scenario: Scenario) -> str:
    """Return the name of the shipped ds_config with the shortest predicted step of those that fit; "" without one."""
    timed = []
    for path in shipped_ds_configs():
        other = scenario.with_ds_config_file(path)
        try:
            predicted = step_time(other.sized(), other.hardware)
        except UserError:
            continue  # the run and this file contradict each other
        if predicted:
            timed.append((predicted.seconds, path.stem, other))
    return next((name for _, name, other in sorted(timed, key=lambda found: found[:2]) if other.fits()), "")


@dataclass(frozen=True)
class ScalingRow:
    """A scenario on another number of ranks, with the same global batch."""

    scenario: Scenario
    step: StepTime
    sent: float
    """Bytes, by each rank in a step."""


def scaling(scenario: Scenario) -> Iterator[ScalingRow]:
    """Yield the scenario on 1 to MOST_RANKS ranks, as far as the global batch has a sequence for each.

    The micro-batch is the run's, or the largest divisor of it that leaves each rank a whole number of them. Raises
    UserError where no step time is predicted.
    """
    on_node, batch = scenario.hardware.gpus_per_node, scenario.run.batch
    counts = [2**k for k in range(10) if 2**k < on_node]
    counts += [on_node * 2**k for k in range(11) if on_node * 2**k <= MOST_RANKS]
    for n_ranks in counts:
        if batch.global_batch_size % n_ranks:
            continue
        micro_batch = math.gcd(batch.micro_batch_size, batch.global_batch_size // n_ranks)
        gpus = min(n_ranks, on_node)
        found = scenario.with_hardware(gpus_per_node=gpus, nodes=n_ranks // gpus).with_batch(
            micro_batch_size=micro_batch
        )
        step, sent = step_time(found.sized(), found.hardware), sent_bytes(found)
        if step is None or sent is None:
            raise UserError(
                "--scaling: no step time is predicted here: not for a machine whose speed is not known, a model of "
                "your own, NVMe or quantized ZeRO-3; give --hardware a100-80g, h100, rtx4090, ..."
            )
        yield ScalingRow(found, step, sum(sent.values()))


def format_scaling(rows: Sequence[ScalingRow], scenario: Scenario) -> str:
    """Return the table of --scaling, and what it rests on."""
    cells = [("ranks", "nodes", "micro-batch", "steps of it", "a step", "tokens/s", "between ranks", "sends", "fits")]
    for row in rows:
        hardware, resolved = row.scenario.hardware, row.scenario.sized().ds_config
        cells.append(
            (
                f"{hardware.world_size:,}",
                str(hardware.nodes),
                str(row.scenario.run.batch.micro_batch_size),
                str(resolved.gradient_accumulation_steps),
                f"{row.step.seconds:.3f} s",
                f"{row.step.tokens_per_second:,.0f}",
                f"{row.step.network:.3f} s",
                format_bytes(row.sent),
                "yes" if row.scenario.fits() else "NO",
            )
        )
    batch = scenario.run.batch.global_batch_size
    return "\n".join(
        [
            *columns(cells, range(8)),
            f"{Path(scenario.ds_config_file).name}, a global batch of {batch} x {scenario.run.batch.seq_len} tokens on "
            "each; numbers of ranks that do not divide it are left out. Predicted from assumed rates, not measured.",
            _rates(scenario.hardware),
        ]
    )


def _rates(hardware: Hardware) -> str:
    pcie = PCIE_BYTES_PER_SECOND.get(hardware.name, PCIE_4)
    return (
        f"taken: a card's {(hardware.peak_flops or 0) / 1e12:,.0f} TFLOP/s, {SHARE_OF_PEAK:.0%} of them reached; its "
        f"memory {(hardware.memory_bandwidth or 0) / 1e9:,.0f} GB/s; PCIe {pcie / 1e9:.0f} GB/s; to another card "
        f"{(hardware.link_bandwidth or 0) / 1e9:.0f} GB/s, to other nodes {(hardware.network_bandwidth or 0) / 1e9:g} "
        f"GB/s for each card, {SHARE_OF_LINK:.0%} of both reached"
    )

"""Machines: what a rank may use of the card and of the host, with the reserves said aloud.

Sizes are bytes. What is marked assumed was not measured. torch, and what imports it, is imported where a machine is
looked at: who only writes a size, as `genesis-ds runs` does, does not wait for it.
"""

import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from genesis_ds.errors import UserError, nearest

MIB = 2**20
GIB = 2**30
T = TypeVar("T")

_UNITS = {
    unit + suffix: base**power
    for power, unit in enumerate(("", "k", "m", "g", "t"))
    for suffix, base in (("ib", 1024), ("b", 1000), ("", 1024))
    if unit or suffix == "b"
}
"""Multipliers by lower-case unit: GiB = 2^30, GB = 10^9, and a bare G = 2^30, as Slurm and Docker read it."""

DESKTOP_BYTES = 820 * MIB
"""A desktop card: what the driver and the screen keep; it leaves 11.2 of 12 GiB, the project's 12 GB desktop card."""
SERVER_BYTES = 1230 * MIB
"""A server card of nominal size: what the driver and ECC keep (an 80 GB card shows 79.1-79.6 GiB); assumed."""
CONTEXT_BYTES = GIB // 2
"""The CUDA context of a process that has computed nothing yet: 0.52 GiB measured on an H200."""
OUTSIDE_TORCH_BYTES = 7 * GIB // 4
"""Of a card, what a rank's process holds outside torch's allocator once it trains: the CUDA context, kernels, NCCL's
buffers. Measured on an H200 with one rank: 1.15-1.19 GiB after initialisation, 1.30 GiB after a step under
ZeRO-3, 1.68-1.73 GiB under ZeRO-2. A smaller card is likely to need less; none has been measured."""
NCCL_BYTES = 600 * 10**6
"""What NCCL takes besides where ranks talk to each other, 0.5-0.7 GB per process group; assumed."""
PROCESS_BYTES = {"cuda": 7 * GIB // 4, "cpu": 2 * GIB // 5}
"""A rank's process without its tensors: Python, torch, DeepSpeed, what they make as they run, and the tables of a
corpus. Measured in the quickstart's training and in a benchmark: with CUDA (an H200) 1.75 and 1.50 GiB, on a CPU 0.39
and 0.30 GiB."""
MOST_RANKS = 100_000
"""Ranks that a plan is made for: their shares are counted through."""
GROWTH_BYTES = GIB // 8
"""What a process on a CPU takes between its plan and its last step besides tensors: modules loaded on use, thread
pools, what DeepSpeed and autograd keep of each module. Measured: 0.12 GiB in a benchmark, 0.09 GiB in training."""


def format_bytes(nbytes: float) -> str:
    """Format bytes in binary units with two decimals: 8.40 GiB, 61.50 MiB, 0.52 KiB."""
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if abs(nbytes) >= size / 10:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1024:.2f} KiB"


@dataclass(frozen=True)
class Hardware:
    """Nodes that are alike. Without a GPU (gpu_bytes 0) a node has gpus_per_node ranks that compute on the CPU."""

    name: str
    gpu_bytes: int
    """Memory of one card; 0: no GPU."""
    host_bytes: int
    """Memory of one node."""
    gpus_per_node: int = 1
    """Ranks of a node; they share its host memory."""
    nodes: int = 1
    peak_flops: float | None = None
    """Dense bf16 FLOP/s of one card with fp32 accumulation; None: not known."""
    memory_bandwidth: float | None = None
    """Bytes/s of one card's memory; None: not known."""
    link_bandwidth: float | None = None
    """Bytes/s from a card to another of its node, one way; None: not known."""
    network_bandwidth: float | None = None
    """Bytes/s from a node to the others, one way, a card's share of it; None: not known."""
    held_bytes: int = 0
    """Of each card, held by others: the driver, the screen, other programs."""
    held_by: str = ""
    """Who they are."""
    outside_torch_bytes: int = OUTSIDE_TORCH_BYTES
    """Of each card, what its rank holds outside torch's allocator. Counted in a plan's peak, as torch's memory is."""
    measured_process_bytes: int | None = None
    """Of a node, what each rank's process will hold besides tensors, where it was measured; None: PROCESS_BYTES."""

    def __post_init__(self) -> None:
        for name, value in (("gpus", self.gpus_per_node), ("nodes", self.nodes)):
            if value < 1:
                raise UserError(f"--{name}: {value} is not allowed; give a whole number above 0")
        if self.world_size > MOST_RANKS:
            raise UserError(f"hardware: {self.world_size:,} GPUs in all are not allowed; give {MOST_RANKS:,} at most")
        if self.has_gpu and self.usable_gpu_bytes <= self.gpu_overhead_bytes:
            raise UserError(
                f"hardware: a card's {format_bytes(self.gpu_bytes)} is no more than the reserves "
                f"({format_bytes(self.held_bytes + self.gpu_overhead_bytes)}); give a larger card, or --hardware cpu"
            )
        if self.usable_host_bytes <= self.process_bytes:
            raise UserError(
                f"hardware: a node's {format_bytes(self.host_bytes)} for {self.gpus_per_node} ranks is no more than "
                f"the reserves (system {format_bytes(self.system_bytes)}, each rank "
                f"{format_bytes(self.process_bytes)}); give more memory or fewer ranks"
            )

    @property
    def has_gpu(self) -> bool:
        """Whether the ranks compute on a GPU."""
        return self.gpu_bytes > 0

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.gpus_per_node * self.nodes

    @property
    def node_network_bandwidth(self) -> float:
        """Bytes/s from a node to the others, all its network cards together; 0: not known."""
        return self.gpus_per_node * (self.network_bandwidth or 0)

    @property
    def gpu_overhead_bytes(self) -> int:
        """Of a card, what its rank holds outside torch's allocator, and what NCCL takes besides with several ranks."""
        if not self.has_gpu:
            return 0
        return self.outside_torch_bytes + (NCCL_BYTES if self.world_size > 1 else 0)

    @property
    def usable_gpu_bytes(self) -> int:
        """What torch's reserved memory and gpu_overhead_bytes of a rank together may reach; 0 without a GPU."""
        return max(0, self.gpu_bytes - self.held_bytes)

    @property
    def system_bytes(self) -> int:
        """Of a node, kept for the operating system: 7 GiB of 64, in proportion, at most 16 GiB; assumed."""
        return min(self.host_bytes * 7 // 64, 16 * GIB)

    @property
    def process_bytes(self) -> int:
        """Of a node, each rank's Python process without its tensors. Counted in a plan's peak."""
        if self.measured_process_bytes is not None:
            return self.measured_process_bytes
        return PROCESS_BYTES["cuda" if self.has_gpu else "cpu"]

    @property
    def usable_host_bytes(self) -> int:
        """What one rank's process and tensors together may reach: an equal share of the node."""
        return (self.host_bytes - self.system_bytes) // self.gpus_per_node

    @property
    def reserves(self) -> list[str]:
        """One line per reserve, for the output."""
        lines = []
        if self.has_gpu:
            card = f"of a card's {format_bytes(self.gpu_bytes)}"
            if self.held_bytes:
                lines.append(f"GPU: {format_bytes(self.held_bytes)} {card} left to {self.held_by}")
            what = "outside torch: CUDA, kernels, NCCL"
            lines.append(f"GPU: {format_bytes(self.outside_torch_bytes)} {what} (measured on an H200; in the peak)")
            if self.world_size > 1:
                lines.append(f"GPU: {format_bytes(NCCL_BYTES)} for NCCL between ranks (assumed; in the peak)")
        host = f"of a node's {format_bytes(self.host_bytes)}"
        lines.append(f"host: {format_bytes(self.system_bytes)} {host} left to the operating system and its page cache")
        if self.gpus_per_node > 1:
            lines.append(f"host: the rest is shared by the node's {self.gpus_per_node} ranks")
        stack = "torch, CUDA" if self.has_gpu else "torch"
        process = f"{format_bytes(self.process_bytes)} per rank for Python with {stack} and DeepSpeed"
        lines.append(f"host: {process} (measured; in the peak)")
        return lines


class Speeds(NamedTuple):
    """What a card is sold with."""

    flops: float | None
    """Dense bf16 FLOP/s with fp32 accumulation."""
    memory: float | None
    """Bytes/s of its memory."""
    link: float | None
    """Bytes/s to another card of the node, one way."""


_NVLINK_3, _NVLINK_4, _PCIE_4, _THROUGH_HOST = 300e9, 450e9, 25e9, 12e9
_UNKNOWN = Speeds(None, None, None)
_SPEEDS = {
    "NVIDIA GeForce RTX 3060": Speeds(25.5e12, 360e9, _THROUGH_HOST),
    "NVIDIA GeForce RTX 4070": Speeds(58.3e12, 504e9, _THROUGH_HOST),
    "NVIDIA GeForce RTX 4090": Speeds(165.2e12, 1008e9, _THROUGH_HOST),
    "NVIDIA A100-SXM4-40GB": Speeds(312e12, 1555e9, _NVLINK_3),
    "NVIDIA A100-PCIE-40GB": Speeds(312e12, 1555e9, _PCIE_4),
    "NVIDIA A100-SXM4-80GB": Speeds(312e12, 2039e9, _NVLINK_3),
    "NVIDIA A100 80GB PCIe": Speeds(312e12, 1935e9, _PCIE_4),
    "NVIDIA H100 80GB HBM3": Speeds(990e12, 3350e9, _NVLINK_4),
    "NVIDIA H200": Speeds(990e12, 4800e9, _NVLINK_4),
}
"""By the name CUDA gives a card. GeForce tensor cores run bf16 with fp32 accumulation at twice the card's fp32 rate;
these cards reach each other through the host's memory (their link is assumed). Source: NVIDIA's data sheets and its
Ampere GA102 and Ada whitepapers; NVLink's 600 and 900 GB/s are both ways together."""

_NETWORKS = {"a100-40g": 25e9, "a100-80g": 25e9, "h100": 50e9}
"""Of a DGX A100 and a DGX H100: 200 and 400 Gbit/s for each card (NVIDIA's data sheets)."""
_ETHERNET = 1.25e9
"""Of other machines: 10 Gbit/s; assumed."""


def _one_card(name: str, device: str, *, gpu_gib: int, host_gib: int, held_bytes: int, held_by: str) -> Hardware:
    speeds = _SPEEDS[device]
    return Hardware(
        name,
        gpu_bytes=gpu_gib * GIB,
        host_bytes=host_gib * GIB,
        peak_flops=speeds.flops,
        memory_bandwidth=speeds.memory,
        link_bandwidth=speeds.link,
        network_bandwidth=_NETWORKS.get(name, _ETHERNET),
        held_bytes=held_bytes,
        held_by=held_by,
    )


_desktop = partial(_one_card, held_bytes=DESKTOP_BYTES, held_by="the driver and the desktop's screen")
_server = partial(_one_card, held_bytes=SERVER_BYTES, held_by="the driver and ECC (assumed)")

NAMED = {
    hardware.name: hardware
    for hardware in (
        _desktop("rtx3060-12g", "NVIDIA GeForce RTX 3060", gpu_gib=12, host_gib=32),
        _desktop("rtx4070", "NVIDIA GeForce RTX 4070", gpu_gib=12, host_gib=64),
        _desktop("rtx4090", "NVIDIA GeForce RTX 4090", gpu_gib=24, host_gib=64),
        _server("a100-40g", "NVIDIA A100-SXM4-40GB", gpu_gib=40, host_gib=512),
        _server("a100-80g", "NVIDIA A100-SXM4-80GB", gpu_gib=80, host_gib=512),
        _server("h100", "NVIDIA H100 80GB HBM3", gpu_gib=80, host_gib=512),
        Hardware("cpu", gpu_bytes=0, host_bytes=64 * GIB),
    )
}
"""One card each, with the host memory usual beside it: 32 or 64 GiB in a desktop, 512 GiB in a server (assumed)."""


def find_hardware(name: str) -> Hardware:
    """Return the machine of that name; `here` reads this one. Raises UserError for another name."""
    if name == "here":
        return here()
    if name not in NAMED:
        raise UserError(f"hardware: '{name}' is not known; {nearest(name, [*NAMED, 'here'])} (or give --vram, --ram)")
    return NAMED[name]


def from_numbers(vram: str | int, ram: str | int) -> Hardware:
    """Return a machine of these sizes (of one card, of one node's RAM), taken for a desktop. Raises UserError."""
    gpu_bytes, host_bytes = parse_size(vram, "--vram"), parse_size(ram, "--ram")
    name = f"{format_bytes(gpu_bytes)} GPU, {format_bytes(host_bytes)} RAM"
    return replace(
        NAMED["rtx4070"],
        name=name,
        gpu_bytes=gpu_bytes,
        host_bytes=host_bytes,
        peak_flops=None,
        memory_bandwidth=None,
        link_bandwidth=None,
    )


def parse_size(size: str | int, what: str = "size") -> int:
    """Return the bytes of '12GiB' (2^30), '12 GB' (10^9), '64G' (2^30) or a number of bytes.

    what: the flag that the UserError for anything else names.
    """
    written = f"{size}B" if isinstance(size, int) else size
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", written)
    if match and not match[2]:
        raise UserError(f"{what}: '{size}' has no unit; write {match[1]}GiB, or {match[1]}B for bytes")
    if not match or match[2].lower() not in _UNITS:
        raise UserError(f"{what}: '{size}' is not a size; write a number and B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB)")
    number = float(match[1]) * _UNITS[match[2].lower()]
    nbytes = int(number) if number < 2**60 else 0
    if nbytes <= 0:
        raise UserError(f"{what}: '{size}' is not allowed; give a size above 0, such as 12GiB")
    return nbytes


def here() -> Hardware:
    """Return this machine as one node: RAM within the container's limit, CUDA devices unless DS_ACCELERATOR is cpu.

    What others hold of the current card now (the screen, other programs) is taken to stay held. Raises UserError where
    DS_ACCELERATOR asks for what is not here.
    """
    import torch

    from genesis_ds.engine.distributed import accelerator

    limits = cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    host_bytes = min([psutil.virtual_memory().total, *limits])
    if accelerator() == "cpu":
        return Hardware("here", gpu_bytes=0, host_bytes=host_bytes)
    free, total = torch.cuda.mem_get_info()
    own = CONTEXT_BYTES + torch.cuda.memory_reserved()
    device = torch.cuda.get_device_name()
    speeds = _SPEEDS.get(device, _UNKNOWN)
    return Hardware(
        f"here ({device})",
        gpu_bytes=total,
        host_bytes=host_bytes,
        gpus_per_node=torch.cuda.device_count(),
        peak_flops=speeds.flops,
        memory_bandwidth=speeds.memory,
        link_bandwidth=speeds.link,
        network_bandwidth=_ETHERNET,
        held_bytes=max(0, total - free - own),
        held_by="what other programs hold now",
    )


def apart(look: Callable[[], T]) -> T:
    """Return what a function returns that looks at this machine: in another process where that has a GPU.

    Whoever looks at a GPU holds some of its memory from then on.
    """
    from genesis_ds.engine.distributed import accelerator

    if accelerator() == "cpu":
        return look()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(look).result()


def own_gpu_peak(hardware: Hardware) -> int:
    """Return the most that this process has held of its card, as the driver counts now and torch's allocator before.

    hardware: this machine as `here` found it, with what others held then.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    outside_torch = total - free - hardware.held_bytes - torch.cuda.memory_reserved()
    return outside_torch + torch.cuda.max_memory_reserved()


def cgroup_limits(membership: Path, mount: Path) -> Iterator[int]:
    """Yield the memory limits in bytes over this process: of its cgroup and of those above it, versions 1 and 2.

    membership: lines of 'id:controllers:path'; mount: where the hierarchies are mounted.
    """
    lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "memory":
            root, file = mount / "memory", "memory.limit_in_bytes"
        elif not controllers:
            root, file = mount, "memory.max"
        else:
            continue
        group = Path(path.lstrip("/"))
        for above in (group, *group.parents):
            limit = root / above / file
            if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()) != "max":
                yield int(text)

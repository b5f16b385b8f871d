"""How long a step takes, predicted from the run and the machine alone: computing, PCIe, the network, updating.

Nothing is measured here. What is assumed is said where it stands; `genesis-ds bench` measures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genesis_ds.config.resolve import SizedRun
from genesis_ds.ds_config.lint import accumulates_in_fp32
from genesis_ds.ds_config.schema import setting
from genesis_ds.flops import hardware_flops_per_token
from genesis_ds.memory.deepspeed.traffic import Collective, collectives
from genesis_ds.memory.machine.hardware import Hardware
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.optimizers.load import state_tensors

SHARE_OF_PEAK = 0.5
"""Of a card's peak, what the matrix products of a narrow model reach; assumed."""
LAUNCHING = {False: 4.0e-3, True: 2.5e-3}
"""Compiled -> seconds in which a host launches a layer's forward and backward, below which no card comes. On an H200's
host a layer took 7.6 ms eager and 4.3 ms compiled with its recomputation, 3.1 ms compiled with a budget of 0.1."""
RECOMPUTED = {False: 3.6e-3, True: 1.8e-3}
"""The same of recomputing it."""
FETCHING = 9.0e-3
"""And of ZeRO-3's gathering and releasing of its weights, 8 to 11 ms there."""
PCIE_BYTES_PER_SECOND = {"h100": 50e9}
"""Of PCIe 5 x16, pinned memory, one way; assumed. Other machines: PCIe 4 x16."""
PCIE_4 = 25e9
HOST_BYTES_PER_SECOND = {"rtx3060-12g": 40e9, "rtx4070": 60e9, "rtx4090": 60e9}
"""Of a desktop's two channels of memory; assumed. Other machines: a server's."""
SERVER_MEMORY = 150e9
SHARE_OF_LINK = 0.8
"""Of a link's or a network's peak, what a large collective reaches; assumed."""
PROTOCOLS = ((6.6e-6, 0.6e-6, 2.7e-6, 0.5), (8.4e-6, 3.4e-6, 14e-6, 1.0))
"""Seconds of a call, of a hop to the next card, of one to the next node, and the share of the rate: what NCCL's
src/graph/tuning.cc takes for a ring with LL and with Simple. It chooses the one that is sooner."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step on each rank, predicted, as if nothing overlapped but what overlap_comm has."""

    compute: float
    """Forward, backward and what is recomputed; no less than the launching takes."""
    launches: float
    """Of compute, the host's time to launch all kernels."""
    pcie: float
    """Gradients, weights and their like between card and host."""
    network: float
    """Gradients and weights between ranks, what computing does not hide."""
    optimizer: float
    """Reading and writing of masters, moments and gradients, wherever they are."""
    n_tokens: int
    """Of the step, on all ranks."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.pcie + self.network + self.optimizer

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second, on all ranks."""
        return self.n_tokens / self.seconds

    def __str__(self) -> str:
        """Return it in a line."""
        bound = " (bound by launching kernels)" if self.launches == self.compute else ""
        return (
            f"a step takes {self.seconds:.2f} s, {self.tokens_per_second:,.0f} tokens/s (predicted from assumed "
            f"speeds, not measured): compute {self.compute:.2f} s{bound}, PCIe {self.pcie:.2f} s, between ranks "
            f"{self.network:.2f} s, optimizer {self.optimizer:.2f} s"
        )


def step_time(run: SizedRun, hardware: Hardware) -> StepTime | None:
    """Return the prediction; None where a speed is not known, and for a model or optimizer of the user's."""
    own = run.config.extensions.model or run.ds_config.offload_optimizer == "nvme"
    calls = collectives(run, hardware.world_size, gpu=hardware.has_gpu)
    if not hardware.peak_flops or not hardware.memory_bandwidth or own or calls is None:
        return None
    batch, checkpointing = run.config.batch, run.config.activation_checkpointing
    n_tokens = batch.global_batch_size * batch.seq_len
    per_rank = n_tokens / hardware.world_size
    flops = hardware_flops_per_token(run.model, batch.seq_len, checkpointing) * per_rank * run.config.masking.readings
    compiled = run.config.compiles_on("cuda")
    per_layer = LAUNCHING[compiled] + (RECOMPUTED[compiled] if checkpointing.mode == "block" else 0)
    per_layer += FETCHING if run.ds_config.zero_stage == 3 else 0
    launches = per_layer * run.model.n_layers * run.ds_config.gradient_accumulation_steps
    compute = max(flops / (hardware.peak_flops * SHARE_OF_PEAK), launches)
    pcie = _pcie_bytes(run, hardware) / PCIE_BYTES_PER_SECOND.get(hardware.name, PCIE_4)
    overlaps = setting(run.ds_config.config, "zero_optimization.overlap_comm")
    if overlaps:
        pcie = max(0.0, pcie - compute / 2)
    on_host = run.ds_config.offload_optimizer != "none"
    host = HOST_BYTES_PER_SECOND.get(hardware.name, SERVER_MEMORY) / hardware.gpus_per_node
    optimizer = update_bytes(run, hardware.world_size) / (host if on_host else hardware.memory_bandwidth)
    within = collective_seconds([call for call in calls if call.within_passes], hardware)
    around = collective_seconds([call for call in calls if not call.within_passes], hardware)
    if overlaps or (overlaps is None and run.ds_config.zero_stage == 3):
        within = max(0.0, within - compute / 2)
    return StepTime(compute, launches, pcie, within + around, optimizer, n_tokens)


def collective_seconds(calls: Sequence[Collective], hardware: Hardware) -> float:
    """Return how long a rank is in collectives: what it sends, at the slowest part of the ring, and their latency.

    A ring over nodes crosses each node's border once in every channel, and the channels share the node's network
    cards: a rank sends as fast as all of these together, and no faster than its own link. An all-reduce of many nodes
    goes over a tree where that has fewer hops.
    """
    n_ranks, nodes, on_node = hardware.world_size, hardware.nodes, hardware.gpus_per_node
    rates = [hardware.link_bandwidth if on_node > 1 else None, hardware.node_network_bandwidth if nodes > 1 else None]
    rate = SHARE_OF_LINK * min((rate for rate in rates if rate), default=math.inf)
    ring, tree = (n_ranks - nodes, nodes - 1), (on_node - 1, math.ceil(math.log2(nodes)))
    seconds = 0.0
    for call in calls:
        sent = call.sent_bytes(n_ranks) / call.calls
        routes = [(2 * cards, 2 * borders) for cards, borders in (ring, tree)] if call.kind == "all-reduce" else [ring]
        seconds += call.calls * min(
            start + cards * to_card + borders * to_node + sent / (rate * share)
            for start, to_card, to_node, share in PROTOCOLS
            for cards, borders in routes
        )
    return seconds


def update_bytes(run: SizedRun, world_size: int) -> float:
    """Return what an update reads and writes on a rank: masters and states both ways, gradients in, weights out.

    bf16 masters are the weights themselves; kahan's compensation is a state, as averages are.
    """
    shard = world_size if run.ds_config.zero_stage else 1
    rounding = run.ds_config.master_rounding
    width, out = (4, 2) if rounding == "none" else (2, 0)
    besides = run.config.optimizer.n_averages + (rounding == "kahan")
    states = ((each.numel, len(state_tensors(run.config, each.group)) + besides) for each in run_parameters(run))
    return sum(numel * (2 * width * (1 + number) + width + out) for numel, number in states) / shard


def _pcie_bytes(run: SizedRun, hardware: Hardware) -> float:
    """Return what a rank moves between card and host in a step.

    ZeRO-1/2 with offload restores and saves the gradient at each micro-step of several, once where it adds up in fp32
    on the card (copy_grads_in_partition of runtime/zero/stage_1_and_2.py in DeepSpeed 0.19.8). ZeRO-3 with weights on
    the host fetches them forward and backward.
    """
    config, micro_steps = run.ds_config, run.ds_config.gradient_accumulation_steps
    width = 2 if config.precision == "bf16" else 4
    mine = sum(parameter.numel for parameter in run_parameters(run)) / hardware.world_size
    moved = 0.0
    if config.offload_optimizer != "none":
        kept = accumulates_in_fp32(config.config) and config.zero_stage != 3
        moved += mine * (4 if kept else width * (2 * micro_steps - 1)) + mine * width
    if config.offload_param != "none":
        moved += mine * width * 2 * micro_steps
    return moved

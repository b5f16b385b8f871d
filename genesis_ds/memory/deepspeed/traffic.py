"""What a rank sends to the others in an optimizer step, by collective, as DeepSpeed calls them.

Counted is what a ring sends (github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md): of a buffer of B bytes on N ranks each
rank sends B (N-1)/N in a reduce-scatter and in an all-gather, and twice that in an all-reduce. Norms, losses and what
hooks gather are some kilobytes and left out. Bytes are held to those of the real engine within 1 % by a test, calls
within a factor of two. s12 is deepspeed/runtime/zero/stage_1_and_2.py, s3 stage3.py, of 0.19.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from genesis_ds.config.resolve import SizedRun
from genesis_ds.memory.activations.micro_step import micro_step
from genesis_ds.memory.deepspeed.buffers import BufferConfig, by_group
from genesis_ds.memory.deepspeed.timeline import Enter, Leave, Timeline
from genesis_ds.memory.deepspeed.zero3_gather import GatheredWeights
from genesis_ds.memory.shapes import run_parameters

OTHERWISE = (
    "stage3_use_all_reduce_for_fetch_params",
    "zero_quantized_weights",
    "zero_quantized_gradients",
)
"""Keys of zero_optimization that change what is sent in ways not counted here."""


@dataclass(frozen=True)
class Collective:
    """Calls of one kind in an optimizer step, on each rank."""

    kind: str
    """reduce-scatter, all-gather or all-reduce."""
    calls: float
    buffer_bytes: float
    """Of all calls together: what is gathered, or reduced."""
    within_passes: bool
    """Whether they come during forward and backward; otherwise around the update."""

    def sent_bytes(self, n_ranks: int) -> float:
        """Return what a rank sends, over a ring."""
        return self.buffer_bytes * (2 if self.kind == "all-reduce" else 1) * (n_ranks - 1) / n_ranks


def collectives(run: SizedRun, n_ranks: int, *, gpu: bool) -> list[Collective] | None:
    """Return what a rank takes part in during an optimizer step; None where a key of OTHERWISE is set."""
    config = BufferConfig(run.ds_config.config, n_ranks, run.ds_config.optimizer_implementation)
    if any(map(config.zero, OTHERWISE)) or config.zero("zero_hpz_partition_size") > 1:
        return None
    if n_ranks == 1:
        return []
    weights = run_parameters(run)
    n_weights, micro_steps = sum(weight.numel for weight in weights), run.ds_config.gradient_accumulation_steps
    stage = run.ds_config.zero_stage
    n_reductions = micro_steps if stage in (2, 3) else 1  # s12:2294: at the last micro-step under ZeRO-1
    buckets = -(-n_weights // config.bucket_elements)
    by_owner = config.zero("reduce_scatter") and not config.zero("use_multi_rank_bucket_allreduce")
    kind = "reduce-scatter" if stage == 3 or (stage and by_owner) else "all-reduce"  # s12:1695
    found = [Collective(kind, n_reductions * buckets, n_reductions * n_weights * config.communicate, True)]
    if stage in (1, 2):
        found.append(Collective("all-gather", len(by_group(weights)), n_weights * config.weight, False))  # s12:3155
    if stage == 3:
        found += _gathers(run, config, gpu=gpu)
    return found


def _gathers(run: SizedRun, config: BufferConfig, *, gpu: bool) -> Iterator[Collective]:
    """Yield the gathers of ZeRO-3, of its second step on: nothing changes from then."""
    gathered = GatheredWeights(run_parameters(run), config, Timeline())
    events = micro_step(run, run.tasks[0], gpu=gpu).events
    micro_steps = run.ds_config.gradient_accumulation_steps
    n_calls = n_elements = 0
    for is_counted in (False, True):
        for number in range(min(micro_steps, 2)):
            before = gathered.n_calls, gathered.n_gathered
            for event in events:
                if isinstance(event, Enter):
                    gathered.enter(event.module)
                elif isinstance(event, Leave):
                    gathered.leave(event.module)
            gathered.end_micro_step()
            times = is_counted * (1 if number == 0 else micro_steps - 1)
            n_calls += times * (gathered.n_calls - before[0])
            n_elements += times * (gathered.n_gathered - before[1])
        gathered.release_all()
        gathered.gather_persistent()
    if n_calls:
        yield Collective("all-gather", n_calls, n_elements * config.weight, True)
    if persistent := gathered.persistent:  # s3:2841, each in a call of its own
        kept = sum(weight.numel for weight in persistent) * config.weight
        yield Collective("all-gather", len(persistent), kept, False)

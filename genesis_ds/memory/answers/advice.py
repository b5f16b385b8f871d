"""What to change: the cheapest way to make a run fit, or what would make one that fits faster."""

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from genesis_ds.ds_config.lint import offload_device, zero_stage
from genesis_ds.ds_config.schema import setting
from genesis_ds.errors import UserError
from genesis_ds.memory.answers.report import BF16_COSTS
from genesis_ds.memory.machine.hardware import GIB, format_bytes
from genesis_ds.memory.plan import Plan
from genesis_ds.memory.scenario import Scenario

STAGE3_KEYS = (
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "sub_group_size",
    "offload_param",
)
BUDGETS = (0.5, 0.3, 0.1, 0.0)
"""Values of compile.activation_memory_budget that are tried, the fastest first."""
PREFETCH = 100_000_000
"""Most elements of a prefetch bucket that are proposed."""
CPU = {"device": "cpu", "pin_memory": True}
MODES = ("none", "swiglu", "elementwise", "block")
"""Of activation_checkpointing, from the one that keeps all to the one that keeps the least."""
LOSS_CHUNK, MOST_CHUNKS = 512, 512
"""Positions whose logits still fill a GPU, and the most chunks that are traced for the plan."""
BYTES_OF_A_LOGIT = 12
"""Of a bf16 logit at the peak: its probability and gradient in fp32 as well, and its own gradient."""
BF16_MASTERS = "bf16.bf16_master_weights_and_grads"
EXACT_PINNING = "export DS_PIN_MEMORY_BACKEND=native"


@dataclass(frozen=True)
class Change:
    """Something a user can change, and what it costs."""

    text: str
    """Its {run} is the run after the change; its {masters} ends the name of a ds_config as its master weights are."""
    apply: Callable[[Scenario], Scenario | None]
    """The scenario after it; None where there is nothing to change."""


def advise(scenario: Scenario, plan: Plan) -> list[str]:
    """Return lines to read, the cheapest change first."""
    lines = list(_to_fit(scenario) if not plan.fits else _faster(scenario))
    wasted = plan.host.breakdown.get("pinned rounding", 0) + plan.host.breakdown.get("pinned cache", 0)
    if wasted > GIB / 2:
        lines.append(f"torch rounds pinned memory up to powers of two: {format_bytes(wasted)} here; {EXACT_PINNING}")
    return lines


def _to_fit(scenario: Scenario) -> Iterator[str]:
    """Yield up to three changes of which each alone makes it fit; where none does, the fewest together."""
    alone = ((change, _try(change, scenario)) for change in CHEAPEST_FIRST)
    lines = list(islice((_text(change, run) for change, run in alone if run is not None and run.fits()), 3))
    yield from lines or _together(scenario)


def _together(scenario: Scenario) -> Iterator[str]:
    texts: list[str] = []
    for change in CHEAPEST_FIRST:
        changed = _try(change, scenario)
        if changed is None:
            continue
        scenario, texts = changed, [*texts, _text(change, changed)]
        if scenario.fits():
            yield "together: " + "; ".join(texts)
            return
    yield "nothing here makes it fit; --fit layers, width or seq_len says how large it may be"


def _text(change: Change, changed: Scenario) -> str:
    masters = "_bf16" if setting(changed.ds_config, BF16_MASTERS) else ""
    return change.text.format(run=changed.run, masters=masters)


def _faster(scenario: Scenario) -> Iterator[str]:
    for change in FASTER:
        changed = _try(change, scenario)
        if changed is not None and changed.fits():
            yield _text(change, changed)


def _try(change: Change, scenario: Scenario) -> Scenario | None:
    """Return the changed scenario, None where the change does not apply or DeepSpeed or the batch does not allow it."""
    try:
        changed = change.apply(scenario)
        if changed is not None:
            changed.sized()
    except UserError:
        return None
    return changed


def _stage(s: Scenario) -> int:
    return zero_stage(s.ds_config)


def offloads(s: Scenario) -> bool:
    """Return whether the optimizer is not on the card."""
    return offload_device(s.ds_config, "offload_optimizer") != "none"


def _exact_pinning(s: Scenario) -> Scenario | None:
    return None if s.settings.exact_pinning or not offloads(s) else s.with_settings(exact_pinning=True)


def _expandable_segments(s: Scenario) -> Scenario | None:
    return (
        None if s.settings.expandable_segments or not s.hardware.has_gpu else s.with_settings(expandable_segments=True)
    )


def _smaller_bucket(s: Scenario) -> Scenario | None:
    bucket = setting(s.ds_config, "zero_optimization.reduce_bucket_size")
    return s.with_zero(reduce_bucket_size=20_000_000) if bucket > 20_000_000 and _stage(s) else None


def _recompute(s: Scenario) -> Scenario | None:
    """Return the run that recomputes the least with which it fits; whole blocks where none does."""
    now = s.run.activation_checkpointing
    if now.mode == "block" and now.every == 1:
        return None
    own = s.run.extensions.model is not None
    modes = MODES[-1:] if own or now.mode not in MODES[:-1] else MODES[MODES.index(now.mode) + 1 :]
    scenarios = [s.with_checkpointing(mode=mode, every=1) for mode in modes]
    return next((scenario for scenario in scenarios if scenario.fits()), scenarios[-1])


def _loss_in_chunks(s: Scenario) -> Scenario | None:
    """Return the run that computes its loss in chunks, where that saves something to speak of."""
    positions = s.run.batch.micro_batch_size * s.run.batch.seq_len * s.run.masking.readings
    now = s.run.activation_checkpointing.loss_chunk or positions
    saved = BYTES_OF_A_LOGIT * (now - LOSS_CHUNK) * s.sized().model.vocab_size
    useful = saved > GIB / 16 and positions <= MOST_CHUNKS * LOSS_CHUNK
    return s.with_checkpointing(loss_chunk=LOSS_CHUNK) if useful else None


def _teacher_on_host(s: Scenario) -> Scenario | None:
    return s.with_distill(device="cpu") if s.teachers and s.run.distill.device == "cuda" else None


def _smaller_micro_batch(s: Scenario) -> Scenario | None:
    """Return the run with the largest divisor of its micro-batch that fits; with 1 where none does."""
    size = s.run.batch.micro_batch_size
    smaller = [s.with_batch(micro_batch_size=divisor) for divisor in range(1, size) if size % divisor == 0]
    n_fit = bisect(smaller, False, key=lambda scenario: not scenario.fits())
    return smaller[max(0, n_fit - 1)] if smaller else None


def _budget(s: Scenario) -> Scenario | None:
    """Return the run with the largest share of the activations of compiled blocks that fits; of BUDGETS the last."""
    compiles = s.run.compiles_on("cuda" if s.hardware.has_gpu else "cpu") and not s.run.extensions.model
    if not compiles or s.run.activation_checkpointing.mode != "none":
        return None
    shares = [share for share in BUDGETS if share < s.run.compile.activation_memory_budget]
    less = [s.with_compile(activation_memory_budget=share) for share in shares]
    return next((scenario for scenario in less if scenario.fits()), less[-1]) if less else None


def _default_accumulation(s: Scenario) -> Scenario | None:
    has = setting(s.ds_config, "data_types.grad_accum_dtype") is not None
    return s.with_section("data_types", grad_accum_dtype=None) if has else None


def _offload_optimizer(s: Scenario) -> Scenario | None:
    return None if offloads(s) else s.with_zero(stage=max(2, _stage(s)), offload_optimizer=CPU)


def _offload_checkpoints(s: Scenario) -> Scenario | None:
    checkpointing = s.run.activation_checkpointing
    return None if checkpointing.mode == "none" or checkpointing.offload else s.with_checkpointing(offload=True)


def _offload_weights(s: Scenario) -> Scenario | None:
    if offload_device(s.ds_config, "offload_param") != "none":
        return None
    optimizer = {} if offloads(s) else {"offload_optimizer": CPU}
    return s.with_zero(stage=3, allgather_bucket_size=None, offload_param=CPU, **optimizer)


def _bf16_masters(s: Scenario, stage: int) -> Scenario | None:
    """Return the run with bf16 masters and moments, its optimizer on the host; at stage 3 its weights too."""
    has = setting(s.ds_config, BF16_MASTERS)
    if has or s.sized().ds_config.precision != "bf16" or _stage(s) > stage:
        return None
    with_masters = s.with_section("bf16", bf16_master_weights_and_grads=True, bf16_optimizer_states=True)
    on_host = _offload_weights(with_masters) if stage == 3 else _offload_optimizer(with_masters)
    return on_host or with_masters


CHEAPEST_FIRST = (
    Change(f"{EXACT_PINNING}: pinned memory takes what it needs, not the next power of two", _exact_pinning),
    Change("export PYTORCH_ALLOC_CONF=expandable_segments:True: less of the GPU stays unused", _expandable_segments),
    Change("zero_optimization.reduce_bucket_size 20000000", _smaller_bucket),
    Change(
        "no data_types.grad_accum_dtype: gradients add up in bf16, and cross PCIe at every micro-step where the "
        "optimizer is on the host",
        _default_accumulation,
    ),
    Change(f"activation_checkpointing.loss_chunk {LOSS_CHUNK}: logits are computed twice", _loss_in_chunks),
    Change(
        "batch.micro_batch_size {run.batch.micro_batch_size}: the same global batch in more, smaller steps",
        _smaller_micro_batch,
    ),
    Change(
        "compile.activation_memory_budget {run.compile.activation_memory_budget:g}: compiled blocks compute again what "
        "is cheapest to",
        _budget,
    ),
    Change(
        "activation_checkpointing.mode {run.activation_checkpointing.mode}: more is computed again, with block a third "
        "of all",
        _recompute,
    ),
    Change("distill.device cpu: the teacher is computed on the host", _teacher_on_host),
    Change("activation_checkpointing.offload true: block inputs cross PCIe twice", _offload_checkpoints),
    Change("ds_configs/zero2_offload{masters}.json: the optimizer on the host", _offload_optimizer),
    Change(
        f"ds_configs/zero2_offload_bf16.json: masters and moments on the host in bf16; {BF16_COSTS}",
        partial(_bf16_masters, stage=2),
    ),
    Change("ds_configs/zero3_offload{masters}.json: weights on the host too; every layer is fetched", _offload_weights),
    Change(
        f"ds_configs/zero3_offload_bf16.json: weights on the host too, masters and moments in bf16; {BF16_COSTS}",
        partial(_bf16_masters, stage=3),
    ),
)


def _zero2_instead_of_3(s: Scenario) -> Scenario | None:
    on_host = offload_device(s.ds_config, "offload_optimizer") == "cpu"
    if _stage(s) != 3 or s.hardware.world_size > 1 or not on_host:
        return None
    return s.with_zero(stage=2, **dict.fromkeys(STAGE3_KEYS))


def _no_offload(s: Scenario) -> Scenario | None:
    if not offloads(s):
        return None
    fp32_masters = s.with_section("bf16", bf16_master_weights_and_grads=None, bf16_optimizer_states=None)
    return fp32_masters.with_zero(stage=2, offload_optimizer=None, **dict.fromkeys(STAGE3_KEYS))


def _keep_activations(s: Scenario) -> Scenario | None:
    mode = s.run.activation_checkpointing.mode
    return None if mode == "none" else s.with_checkpointing(mode="none", every=1, offload=False)


def _recompute_less(s: Scenario) -> Scenario | None:
    """Return the run that recomputes the least with which it fits, where something must be."""
    if s.run.activation_checkpointing.mode != "block" or s.run.extensions.model is not None:
        return None
    modes = (*MODES[:-1], "mlp")
    scenarios = [s.with_checkpointing(mode=mode, every=1, offload=False) for mode in modes]
    least = next((scenario for scenario in scenarios if scenario.fits()), scenarios[0])
    return None if least is scenarios[0] else least


def _budget_instead_of_blocks(s: Scenario) -> Scenario | None:
    """Return the run that keeps a part of the activations of its compiled blocks in place of none."""
    if s.run.activation_checkpointing.mode != "block":
        return None
    kept = s.with_checkpointing(mode="none", every=1, offload=False)
    whole = kept.with_compile(activation_memory_budget=1.0)
    return None if whole.fits() else _budget(whole)


def _accumulates_over_pcie(s: Scenario) -> bool:
    resolved = s.sized().ds_config
    return offloads(s) and resolved.precision == "bf16" and s.hardware.has_gpu and _stage(s) in (1, 2)


def fp32_accumulation(s: Scenario) -> Scenario | None:
    """Return the run whose gradients add up on the card: they cross PCIe once a step, not twice a micro-step."""
    given = setting(s.ds_config, "data_types.grad_accum_dtype") is not None
    several = s.sized().ds_config.gradient_accumulation_steps > 1
    useful = _accumulates_over_pcie(s) and several and not given and _stage(s) == 2
    return s.with_section("data_types", grad_accum_dtype="fp32") if useful else None


def overlapped(s: Scenario) -> Scenario | None:
    """Return the run whose gradients cross PCIe during the backward pass."""
    given = setting(s.ds_config, "zero_optimization.overlap_comm") is not None
    return s.with_zero(overlap_comm=True) if _accumulates_over_pcie(s) and not given else None


def _prefetch_a_block(s: Scenario) -> Scenario | None:
    """Return the run of ZeRO-3 with its weights on the host in which the next block is fetched while one computes."""
    if offload_device(s.ds_config, "offload_param") == "none" or not s.hardware.has_gpu:
        return None
    model = s.sized().model
    block = (model.n_parameters - 2 * model.vocab_size * model.dim) // model.n_layers
    more = setting(s.ds_config, "zero_optimization.stage3_prefetch_bucket_size") < block <= PREFETCH
    return s.with_zero(stage3_prefetch_bucket_size=block) if more else None


def _double_micro_batch(s: Scenario) -> Scenario | None:
    return s.with_batch(micro_batch_size=2 * s.run.batch.micro_batch_size)


FASTER = (
    Change(
        "faster: ZeRO-2 offload (ds_configs/zero2_offload{masters}.json); ZeRO-3 fetches every layer",
        _zero2_instead_of_3,
    ),
    Change("faster: no offload (ds_configs/zero2.json); the optimizer fits the GPU", _no_offload),
    Change("faster: activation_checkpointing.mode none; all activations fit", _keep_activations),
    Change(
        "faster: activation_checkpointing.mode {run.activation_checkpointing.mode}; less is recomputed", _recompute_less
    ),
    Change(
        "faster: activation_checkpointing.mode none with compile.activation_memory_budget "
        "{run.compile.activation_memory_budget:g}; less is recomputed",
        _budget_instead_of_blocks,
    ),
    Change(
        "faster (by reading, not measured): data_types.grad_accum_dtype fp32; gradients add up on the GPU, 4 bytes per "
        "parameter there, and cross PCIe once a step",
        fp32_accumulation,
    ),
    Change(
        "faster (by reading, not measured): zero_optimization.overlap_comm true; gradients leave the card during the "
        "backward pass",
        overlapped,
    ),
    Change(
        "faster (by reading, not measured): zero_optimization.stage3_prefetch_bucket_size of a whole block; the next "
        "is fetched while one computes",
        _prefetch_a_block,
    ),
    Change("faster: batch.micro_batch_size doubled; fewer micro-steps for the same batch", _double_micro_batch),
)

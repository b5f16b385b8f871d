"""A training run from its command line to its last checkpoint."""

import dataclasses
import sys
import textwrap
from collections.abc import Callable
from functools import partial

import torch

from genesis_ds import ds_config, environment
from genesis_ds.checkpoint.load.initial import InitialWeights, initial_weights
from genesis_ds.config import RunConfig
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments, to_dict
from genesis_ds.engine import compiled_ops, distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import apply_optimizer_settings, build_engine, destroy
from genesis_ds.engine.meter import HostSampler, host_bytes
from genesis_ds.engine.optimizer_hooks import forget_cpu_adam_steps
from genesis_ds.errors import UserError
from genesis_ds.faults.diagnosis import Diagnosis
from genesis_ds.faults.rewind import NumericalFault, rewind
from genesis_ds.hooks.observe.memory import Memory
from genesis_ds.memory.advice import advise
from genesis_ds.memory.machine.hardware import GROWTH_BYTES, Hardware, format_bytes, here
from genesis_ds.memory.plan import Plan
from genesis_ds.memory.planner import AllocatorSettings
from genesis_ds.memory.scenario import Scenario
from genesis_ds.model.attention_proof import prove_attention
from genesis_ds.model.multitask import build_model
from genesis_ds.supervision.output import keep_output_from_failing
from genesis_ds.supervision.stop import STOPPED, Stopped, StopWatcher
from genesis_ds.tasks.load import make_heads, require_extensions
from genesis_ds.training.hooks import build_hooks
from genesis_ds.training.open_run import OpenRun, open_run
from genesis_ds.training.schedule import learning_rate_factor
from genesis_ds.training.tasks import RunTasks, describe
from genesis_ds.training.trainer import Trainer
from genesis_ds.user_files import dump_yaml


def main(argv: list[str]) -> int:
    """launch/train.py. Exit codes of every rank:

    0        trained
    1        crashed: an exception of this rank, or another rank is gone
    2        the user's mistake, said in one line
    3        a numerical fault
    75       stopped as it was asked to, and saved; the same command goes on
    128 + N  stopped at once by signal N: before the first step, or as it was asked twice

    `deepspeed` ends with the code of a rank unless it is signalled itself; `torchrun` makes 1 of all but 0.
    """
    keep_output_from_failing()
    try:
        ranks = Ranks.from_environment()
        environment.check()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    watch = StopWatcher(ranks)
    exit_code = 0
    try:
        arguments = train_arguments(argv)
        resolved = resolve(arguments, ranks)
        if not arguments.options.print_config:
            train(arguments, resolved, ranks, watch)
        elif ranks.is_main:
            print_config(arguments, resolved)
    except UserError as error:
        if ranks.is_main:
            print(f"error: {error}", file=sys.stderr, flush=True)
        exit_code = 2
    except NumericalFault as fault:
        if ranks.is_main:
            print(fault, file=sys.stderr, flush=True)
        exit_code = 3
    except Stopped as stopped:
        if ranks.is_main:
            print(f"stopped    {stopped}; {watch.way_on()}", flush=True)
        exit_code = STOPPED
    except Exception as error:
        watch.crash(error)
    return watch.leave(exit_code)


def train_arguments(argv: list[str]) -> Arguments:
    """The arguments of launch/train.py."""
    own = OwnFlags()
    own.add_argument("--print_config", action="store_true", help="show the resolved whole and stop")
    own.add_argument("--trust", action="store_true", help="run code that a checkpoint's files hold, if they do")
    return parse_arguments(argv, own, "launch/train.py", "Train a run.")


def resolve(arguments: Arguments, ranks: Ranks) -> ds_config.Resolved:
    """The ds_config of this run on this machine. Raises UserError where it, or a class of the user's, cannot be had."""
    require_extensions(arguments.run)
    return ds_config.resolve(
        ds_config.load_ds_config(arguments.ds_config_file),
        where=arguments.ds_config_file,
        run=ds_config.RunSettings.of(arguments.run, arguments.run_file),
        world_size=ranks.world_size,
        accelerator=distributed.accelerator(),
        cpu_adam_available=compiled_ops.compiler_missing() is None,
    )


def print_config(arguments: Arguments, resolved: ds_config.Resolved) -> None:
    """The resolved whole: the run's YAML, which --config reads again, and as comments what DeepSpeed would get."""
    print(dump_yaml(to_dict(arguments.run)), end="")
    print("# The ds_config that DeepSpeed would get:")
    print(textwrap.indent(dump_yaml(resolved.config), "# "), end="")


def train(arguments: Arguments, resolved: ds_config.Resolved, ranks: Ranks, watch: StopWatcher) -> None:
    """Train the run to its end, from its newest checkpoint if it has one."""
    say: Callable[[str], None] = partial(print, flush=True) if ranks.is_main else lambda line: None
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    watch.meet_peers()
    require_one_optimizer(resolved)
    device = distributed.device(ranks)
    opened = open_run(arguments.run, resolved, ranks, arguments.options.trust)
    run, directory, state = opened.run, opened.directory, opened.state
    watch.checkpoints = directory.checkpoints
    if state.is_complete(run):
        hours = f", and the {run.max_hours:.2f} hours are over" if state.global_step < run.n_steps else ""
        say(f"complete: {state.global_step} of {run.n_steps} steps are done{hours}; a longer run trains on")
        for line in directory.results() + directory.places():
            say(line)
        return
    plan = distributed.raise_on_all_ranks(lambda: plan_memory(run, arguments, ranks))
    initial = distributed.raise_on_all_ranks(lambda: begin_with(opened, arguments.options.trust))
    distributed.raise_on_all_ranks(lambda: opened.describe(resolved) if ranks.is_main else None)
    for line in distributed.raise_on_all_ranks(lambda: header(run, resolved, opened.training, ranks, device)):
        say(line)
    for notice in opened.found.notices if opened.found else []:
        say(f"checkpoint {notice}")
    for notice in initial.notices:
        say(f"init       {notice}")
    for notice in opened.studies.notices:
        say(f"analysis   {notice}")
    say(f"memory     {memory_line(plan)}")

    distributed.raise_on_all_ranks(lambda: prepare_operations(resolved))
    while diagnosis := train_opened(opened, resolved, initial, plan, ranks, device, watch):
        opened = rewind(opened, diagnosis, arguments.run, resolved, ranks, arguments.options.trust)
    for line in directory.places():
        say(line)


def train_opened(
    opened: OpenRun,
    resolved: ds_config.Resolved,
    initial: InitialWeights,
    plan: Plan,
    ranks: Ranks,
    device: torch.device,
    watch: StopWatcher,
) -> Diagnosis | None:
    """Build the engine of a run and train it to its end; or to where too many steps in a row had no update, and why."""
    run, state = opened.run, opened.state
    memory = Memory(HostSampler(), plan, run.log_every)
    learning_rate = partial(learning_rate_factor, run.schedule, run.n_steps)
    heads = partial(make_heads, run, opened.training.heads)
    model = partial(build_model, run.model, run.activation_checkpointing, heads)
    engine = build_engine(model, resolved.config, learning_rate, run.seed, initial.read)
    forget_cpu_adam_steps(engine)
    if opened.found:
        opened.checkpoints.load(engine, opened.found.path)
        apply_optimizer_settings(engine, learning_rate)
        if ranks.is_main:
            print(f"resumed    {opened.found.path}: step {state.global_step}, {state.consumed_samples:,} samples seen")
    hooks = build_hooks(opened, engine, memory, ranks, device)
    for hook in hooks:
        hook.load_state_dict(opened.hook_states.get(type(hook).__name__, {}))
    trainer = Trainer(
        run, engine, opened.training, hooks, opened.checkpoints, state, ranks, device, lambda: watch.request
    )
    watch.saves_first = True
    diagnosis = trainer.train()
    if diagnosis:
        watch.saves_first = False
        destroy(engine)
    return diagnosis


def begin_with(opened: OpenRun, trust: bool) -> InitialWeights:
    """The weights of a new run that init_from names. Raises UserError where they are not of the run's model."""
    if opened.found or opened.run.init_from is None:
        return InitialWeights()
    return initial_weights(opened.run, opened.training.heads, opened.data.fingerprints.get("tokenizer"), trust)


def require_one_optimizer(resolved: ds_config.Resolved) -> None:
    """Raises UserError on every rank when the hosts have resolved to different optimizers (one has no compiler)."""
    implementations = distributed.gather(resolved.optimizer_implementation)
    if len(set(implementations)) > 1:
        raise UserError(
            f"optimizer.implementation: auto is {' on one rank and '.join(sorted(set(implementations)))} on another; "
            "install g++ and ninja on every host, or set it to torch"
        )


def machine_of(ranks: Ranks) -> Hardware:
    """This machine and those like it that the run's ranks are on, with what this process holds by now."""
    hardware = dataclasses.replace(here(), gpus_per_node=ranks.local_world_size, nodes=ranks.nodes)
    if hardware.has_gpu:
        return hardware
    return dataclasses.replace(hardware, measured_process_bytes=host_bytes() + GROWTH_BYTES)


def plan_memory(run: RunConfig, arguments: Arguments, ranks: Ranks) -> Plan:
    """The memory plan of the run on this machine. Raises UserError where it does not fit and that is enforced."""
    config = ds_config.load_ds_config(arguments.ds_config_file)
    settings = AllocatorSettings.from_environment()
    scenario = Scenario(run, arguments.run_file, config, arguments.ds_config_file, machine_of(ranks), settings)
    plan = scenario.plan()
    if run.memory.enforce and not plan.fits:
        raise UserError(
            f"this run does not fit this machine: {memory_line(plan)}; {advise(scenario, plan)[0]}; "
            "see genesis-ds memory, or go on with --memory.enforce false"
        )
    return plan


def memory_line(plan: Plan) -> str:
    """The plan in a line."""
    parts = [
        f"{name} {format_bytes(device.peak_bytes)} of {format_bytes(device.usable_bytes)} in {device.phase}"
        for name, device in (("GPU", plan.gpu), ("host", plan.host))
        if device.capacity_bytes
    ]
    return f"predicted peak: {', '.join(parts)}{'' if plan.fits else ' (does not fit)'}"


def prepare_operations(resolved: ds_config.Resolved) -> None:
    """Build what DeepSpeed would otherwise build in the middle of its initialisation, and make its directories."""
    for path in resolved.nvme_paths:
        path.mkdir(parents=True, exist_ok=True)
    if resolved.optimizer_implementation == "cpu_adam":
        compiled_ops.build("cpu_adam")
    if resolved.nvme_paths:
        compiled_ops.build("async_io")
    offloads = {resolved.offload_optimizer, resolved.offload_param} != {"none"}
    if offloads and AllocatorSettings.from_environment().exact_pinning:
        compiled_ops.build("pin_memory")


def header(
    run: RunConfig, resolved: ds_config.Resolved, training: RunTasks, ranks: Ranks, device: torch.device
) -> list[str]:
    """What is about to be trained, on what, and how: the lines printed at the start."""
    model, batch = run.model, run.batch
    dtype = torch.bfloat16 if resolved.precision == "bf16" else torch.float32
    proofs = {"attention": prove_attention(model, device, dtype, min(batch.seq_len, 512))}
    if training.heads:
        proofs["of verses"] = prove_attention(model, device, dtype, min(batch.seq_len, 512), packed=True)
    tokens = batch.global_batch_size * batch.seq_len
    windows = run.n_steps * batch.global_batch_size
    if (epochs := training.epochs(windows)) is not None:
        per_epoch = f"{training.sequences_per_epoch:,} windows of {batch.seq_len} tokens an epoch"
        data = [f"data       {per_epoch}; the run is {epochs:.2f} epochs"]
    else:
        data = []
    return [
        f"model      {model.n_layers} layers x {model.dim}, {model.norm}, {model.n_parameters:,} parameters",
        *data,
        f"tasks      {describe(training.mixture)}",
        *(f"tasks      {notice}" for notice in training.notices),
        f"step       {tokens:,} tokens = {batch.micro_batch_size} windows x {ranks.world_size} ranks x "
        f"{resolved.gradient_accumulation_steps} accumulation",
        *(
            f"{name:<10} {proof.kernel}, relative error {proof.max_error:.1e} against fp32 math"
            for name, proof in proofs.items()
        ),
        f"device     {device.type} x {ranks.world_size}, ZeRO-{resolved.zero_stage}, {resolved.precision}, "
        f"optimizer on {resolved.offload_optimizer}, parameters on {resolved.offload_param}",
        *(f"ds_config  {note}" for note in resolved.notes),
    ]

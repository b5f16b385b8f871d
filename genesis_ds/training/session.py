"""A training run from its command line to its last checkpoint."""

import dataclasses
import socket
import sys
import textwrap
from collections.abc import Callable
from functools import partial

import torch

from genesis_ds import environment
from genesis_ds.checkpoint.load.initial import InitialWeights, initial_weights
from genesis_ds.checkpoint.load.resume import load_checkpoint
from genesis_ds.config import RunConfig
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import raise_on_all_ranks
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.engine.ranks import Ranks
from genesis_ds.engine.rendezvous import Verdict
from genesis_ds.errors import UserError
from genesis_ds.faults.diagnosis import Diagnosis
from genesis_ds.faults.rewind import FailedRun, NumericalFault, rewind
from genesis_ds.memory.machine import wsl
from genesis_ds.memory.plan import Plan
from genesis_ds.supervision.output import copy_output, keep_output_from_failing
from genesis_ds.supervision.stop import STOPPED, Stopped, StopWatcher
from genesis_ds.training.header import header
from genesis_ds.training.hooks import build_hooks, hook_context, load_hook_states
from genesis_ds.training.open_run import OpenRun, open_run
from genesis_ds.training.preparation import (
    memory_line,
    place_teacher,
    plan_memory,
    prepare_operations,
    require_one_optimizer,
    resolve_ds_config,
    teacher_precision,
)
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.same_hosts import DIFFERENT_VERSIONS, require_same, require_same_run, require_shared
from genesis_ds.training.trainer import Trainer
from genesis_ds.user_files import dump_yaml


def main(argv: list[str]) -> int:
    """Train as `genesis-ds train` does. Exit codes of every rank:

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
        run_command(argv, ranks, watch)
    except UserError as error:
        print_mistake(error, ranks)
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


def run_command(argv: list[str], ranks: Ranks, watch: StopWatcher) -> None:
    """Train, or print the configuration. Raises UserError, on all ranks once they have joined."""
    mistake, hosts = "", list[str]()
    try:
        hosts = watch.hosts()
        arguments = train_arguments(argv)
        if arguments.options.print_config:
            if ranks.is_main:
                print_config(arguments, ranks)
            return
    except UserError as error:
        if ranks.world_size == 1:
            raise
        mistake = str(error)
    distributed.set_environment(ranks)
    distributed.initialise(ranks, mistake=mistake, hosts=hosts)
    watch.meet_peers()
    train(arguments, ranks, watch)


def print_mistake(error: UserError, ranks: Ranks) -> None:
    """Print a mistake once; of what is found before the ranks have met each prints its own, with where it is."""
    if ranks.is_main:
        print(f"error: {error}", file=sys.stderr, flush=True)
    elif not (torch.distributed.is_initialized() or isinstance(error, Verdict)):
        print(f"error: rank {ranks.rank} on {socket.gethostname()}: {error}", file=sys.stderr, flush=True)


def train_arguments(argv: list[str]) -> Arguments:
    """Return the arguments of `genesis-ds train`."""
    return parse_arguments(argv, flags(), "genesis-ds train", "Train a run, or go on with it.")


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--print_config", action="store_true", help="show the run and the ds_config in full, and stop")
    own.add_argument(
        "--allow", choices=[DIFFERENT_VERSIONS], help="go on though hosts have other versions of the program"
    )
    own.add_argument("--trust", action="store_true", help="run code that a checkpoint's files hold, if they do")
    return own


def print_config(arguments: Arguments, ranks: Ranks) -> None:
    """Print the run's YAML, which --config reads again, and as comments what DeepSpeed would get."""
    resolved = resolve_ds_config(arguments, ranks)
    print(dump_yaml(dataclasses.asdict(arguments.run)), end="")
    for note in resolved.notes:
        print(f"# {note}")
    print("# The ds_config that DeepSpeed would get:")
    print(textwrap.indent(dump_yaml(resolved.config), "# "), end="")


def train(arguments: Arguments, ranks: Ranks, watch: StopWatcher) -> None:
    """Train the run to its end, from its newest checkpoint if it has one."""
    print_line: Callable[[str], None] = partial(print, flush=True) if ranks.is_main else lambda line: None
    config, trust = arguments.run, arguments.options.trust
    resolved = raise_on_all_ranks(lambda: resolve_ds_config(arguments, ranks))
    require_one_optimizer(resolved)
    require_same_run(config, resolved, ranks, allow=arguments.options.allow)
    require_shared(RunDirectory.of(config).checkpoints, ranks)
    with arguments.locating():
        opened = open_run(config, resolved, ranks, trust)
    require_same(opened.fingerprints, ranks, "give all hosts the same corpus, tokenizer and teacher")
    watch.checkpoints = opened.directory.checkpoints
    if opened.state.is_complete(opened.run):
        print_complete(opened, print_line)
        return
    plan = raise_on_all_ranks(lambda: plan_memory(opened.run, arguments, ranks))
    initial = raise_on_all_ranks(lambda: find_initial_weights(opened, trust))
    raise_on_all_ranks(lambda: opened.describe() if ranks.is_main else None)
    copy_output(opened.directory.log(ranks.rank))
    print_line(f"files      {arguments.run_file}, {arguments.ds_config_file}")
    for line in start_lines(opened, initial, plan, ranks):
        print_line(line)
    raise_on_all_ranks(lambda: prepare_operations(resolved))
    while diagnosis := train_opened(opened, initial, plan=plan, ranks=ranks, watch=watch, trust=trust):
        opened = rewound(opened, diagnosis, config, ranks=ranks, trust=trust)
    for line in opened.directory.location_lines():
        print_line(line)


def train_opened(
    opened: OpenRun, initial: InitialWeights, *, plan: Plan, ranks: Ranks, watch: StopWatcher, trust: bool
) -> Diagnosis | None:
    """Build the engine of a run and train it to its end.

    Return the diagnosis instead where too many steps in a row had no update.
    """
    run, state, device = opened.run, opened.state, distributed.device(ranks)
    sampler = HostSampler()
    if opened.teacher:
        place_teacher(opened.teacher, run, plan, device)
    engine = Engine.build(run, ranks=ranks, device=device, initial=initial.read)
    distributed.limit_waiting()
    if opened.resumed_from:
        path = opened.resumed_from.path
        load_checkpoint(engine, path, ranks, trust)
        if ranks.is_main:
            print(f"resumed    {path}: step {state.global_step}, {state.consumed_samples:,} samples seen")
    hooks = raise_on_all_ranks(lambda: build_hooks(hook_context(opened, engine, plan, sampler)))
    for notice in load_hook_states(hooks, opened.hook_states):
        if ranks.is_main:
            print(f"checkpoint {notice}")
    trainer = Trainer(
        run,
        engine=engine,
        tasks=opened.tasks,
        hooks=hooks,
        checkpoints=opened.checkpoints,
        state=state,
        request=lambda: watch.request,
        begins=watch.save_first,
    )
    diagnosis = trainer.train()
    if diagnosis:
        watch.saves_first = False
        engine.destroy()
    return diagnosis


def rewound(failed: OpenRun, diagnosis: Diagnosis, config: RunConfig, *, ranks: Ranks, trust: bool) -> OpenRun:
    """Return the failed run, opened again at its last good checkpoint, without the data of the steps that failed.

    config: as the command line gave it. Raises NumericalFault where it does not go back.
    """
    before = failed.state
    described = FailedRun(
        failed.directory.path,
        failed.checkpoints,
        resumed_from=failed.resumed_from.path if failed.resumed_from else None,
        rewinds=before.rewinds,
        max_rewinds=config.faults.max_rewinds,
    )
    checkpoint = rewind(described, diagnosis, ranks)
    again = open_run(dataclasses.replace(config, resume=str(checkpoint)), failed.run.ds_config, ranks, trust)
    again.state.left_out = [*before.left_out, *diagnosis.skipped]
    again.state.rewinds, again.state.hours = before.rewinds + 1, before.hours
    return again


def find_initial_weights(opened: OpenRun, trust: bool) -> InitialWeights:
    """Return the weights of a new run that init_from names. Raises UserError where they are not of the run's model."""
    if opened.resumed_from or opened.run.config.init_from is None:
        return InitialWeights()
    return initial_weights(opened.run, opened.data.fingerprints.get("tokenizer"), trust)


def start_lines(opened: OpenRun, initial: InitialWeights, plan: Plan, ranks: Ranks) -> list[str]:
    """Return what is about to be trained and what the user should know of it, a line each. Every rank calls it."""
    lines = raise_on_all_ranks(lambda: header(opened, ranks, distributed.device(ranks)))
    place, precision = "GPU" if plan.teacher == "gpu" else "host", teacher_precision(opened.run, plan)
    notices = {
        "teacher": [f"computed on the {place}, in {precision}"] if plan.teacher else [],
        "checkpoint": [*(opened.resumed_from.notices if opened.resumed_from else ()), *opened.changed()],
        "init": initial.notices,
        "analysis": opened.probes.notices,
    }
    if ranks.is_main:
        offloads = opened.run.ds_config.offloads and distributed.accelerator() == "cuda"
        notices["wsl2"] = list(map(str, wsl.notices(opened.run.config, offloads)))
    lines += [f"{about:<10} {notice}" for about, its in notices.items() for notice in its]
    return [*lines, f"memory     {memory_line(plan)}"]


def print_complete(opened: OpenRun, print_line: Callable[[str], None]) -> None:
    """Print that nothing is left to train, with the results."""
    run, state = opened.run, opened.state
    limit = run.config.max_hours
    hours = f", and the {limit:.2f} hours are over" if state.global_step < run.n_steps else ""
    print_line(f"complete: {state.global_step} of {run.n_steps} steps are done{hours}; a longer run trains on")
    for line in opened.directory.results() + opened.directory.location_lines():
        print_line(line)

"""The hooks of a run: the built-in ones by the registry, a user's own by `extensions.hooks`; and their states."""

from collections.abc import Mapping
from typing import Any

from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.load import hook_classes
from genesis_ds.hooks.registry import EARLIER_NAMES
from genesis_ds.memory.plan import Plan
from genesis_ds.model.multitask import LM
from genesis_ds.training.open_run import OpenRun
from genesis_ds.training.saving import hook_states


def build_hooks(context: HookContext) -> dict[str, Hook]:
    """Return the hooks of a run by name, in the order of their turns. Writers live on the main rank alone."""
    hooks: dict[str, Hook] = {}
    for name, phase, hook_class, options in hook_classes(context.run.config):
        if phase == "write" and not context.engine.ranks.is_main:
            continue
        try:
            hook = hook_class.build(context, **options)
        except UserError as error:
            raise UserError(f"hooks.{name}: {error}") from error
        if not isinstance(hook, Hook | None):
            raise TypeError(f"the build() of the hook {name} returned a {type(hook).__name__}; return a hook or None")
        if hook is not None:
            hooks[name] = hook
    hook_states(hooks)  # what a checkpoint could not keep is said now
    return hooks


def hook_context(opened: OpenRun, engine: Engine, plan: Plan, sampler: HostSampler) -> HookContext:
    """Return what the hooks of a run are built from."""
    run = opened.run
    per_decade = run.config.evaluation.per_decade
    of_verses = EvaluationSchedule(run.intervals.tasks, per_decade)
    schedules = dict.fromkeys(run.tasks, of_verses)
    schedules[LM] = EvaluationSchedule(run.intervals.evaluation, per_decade)
    return HookContext(
        run=run,
        engine=engine,
        data=opened.data,
        evaluations=opened.tasks.evaluations(),
        schedules=schedules,
        alignment_verses=opened.probes.alignment,
        clustering_verses=opened.probes.clustering,
        plan=plan,
        sampler=sampler,
        first_step=opened.state.global_step,
        metrics_file=opened.directory.metrics,
        tensorboard_directory=opened.directory.tensorboard,
    )


def load_hook_states(hooks: Mapping[str, Hook], saved: Mapping[str, Any]) -> list[str]:
    """Give the hooks their states from a checkpoint; return what the user should know, a line each."""
    notices = []
    for name, hook in hooks.items():
        kept = saved.get(name)
        if kept is None and name in EARLIER_NAMES and EARLIER_NAMES[name] in saved:
            kept = {"version": 1, "state": saved[EARLIER_NAMES[name]]}
        if kept is None:
            continue
        state, version = kept["state"], kept["version"]
        if version != hook.version:
            state = hook.convert(state, version)
        if state is not None:
            hook.load_state_dict(state)
        else:
            versions = f"of version {version}, this program has {hook.version}"
            notices.append(f"the state of the hook {name} begins anew: the checkpoint's is {versions}")
    return notices

"""The tasks of a run: which ones, from what data, and when each has its turn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.run_data import RunData, Text
from genesis_ds.data.strata import Strata
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import Unavailable, UserError
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Evaluation, Task, TaskContext
from genesis_ds.tasks.canaries import Canaries
from genesis_ds.tasks.distillation import Teacher
from genesis_ds.tasks.load import meta_heads, reads_tokens, require_suited_model, task_class, weights
from genesis_ds.tasks.masking import Masks
from genesis_ds.tasks.mixture import Mixture, slots_per_block
from genesis_ds.tasks.trial import try_task
from genesis_ds.tasks.verse_task import VerseTask, rows_per_pack


@dataclass(frozen=True)
class RunTasks:
    """The tasks of a run and their schedule."""

    tasks: dict[str, Task]
    mixture: Mixture
    heads: tuple[str, ...]
    """Tasks with a head of their own. A run keeps those it began with, whatever its weights become."""
    token_heads: frozenset[str]
    """Those of them whose head gives states that the decoder's output layer reads."""
    context: TaskContext
    """What the tasks were built from; its rows_per_pack is as it was at the start of the run."""
    notices: list[str]
    """What the user should know: tasks left out and why, verses left out, weights changed."""

    @property
    def sequences_per_epoch(self) -> int | None:
        """Sequences in one pass over the data of LM; None without that task."""
        return self.tasks[LM].sequences_per_epoch if LM in self.tasks else None

    def epochs(self, position: int) -> float | None:
        """Return the passes over the data of LM before a global position; None without that task."""
        per_epoch = self.sequences_per_epoch
        return self.mixture.consumed(position).get(LM, 0) / per_epoch if per_epoch else None

    def heads_of(self, tasks: set[str]) -> set[str]:
        """Return the heads that these tasks use: their own, the decoder's, or both."""
        read_out = {LM} if tasks - {*self.heads} or tasks & self.token_heads else set()
        return tasks & {*self.heads} | read_out

    def evaluations(self) -> dict[str, Evaluation]:
        """Return what judges each task, by task; the decoder's own comes last."""
        order = sorted(self.tasks, key=lambda name: name == LM)
        found = {name: self.tasks[name].evaluation(self.context) for name in order}
        return {name: evaluation for name, evaluation in found.items() if evaluation}

    def state_dict(self) -> dict[str, Any]:
        """Return the JSON-able state that open_tasks takes when the run is resumed."""
        rows_per_pack = self.context.rows_per_pack
        return {"mixture": self.mixture.state_dict(), "heads": list(self.heads), "rows_per_pack": rows_per_pack}


def open_tasks(
    run: RunConfig,
    data: RunData,
    ranks: Ranks,
    *,
    saved: Mapping[str, Any] | None = None,
    position: int = 0,
    teacher: Teacher | None = None,
) -> RunTasks:
    """Return the tasks of a run that begins, or goes on from a saved state at a global position.

    saved: what RunTasks.state_dict has returned; None for a run that begins. teacher: of `distill`, which means nothing
    without it. Raises UserError for a task that was asked for and cannot be had, and for a slot that the ranks do not
    divide.
    """
    mixture = Mixture.from_state(saved["mixture"], run.seed) if saved else None
    takes_turns = mixture is not None and any(set(stretch.weights) != {LM} for stretch in mixture.stretches)
    begun_with = saved["rows_per_pack"] if saved and takes_turns else None  # LM alone packs no verses
    rows = begun_with or rows_per_pack(run.batch.seq_len, run.batch.micro_batch_size)
    context = replace(task_context(run, data, rows), teacher=teacher)
    tasks, notices = _build(run, context, [*data.notices] if isinstance(data, Text) else [])
    of_run = {name: weight for name, weight in weights(run).items() if name in tasks}
    with_head = tuple(meta_heads(run, list(tasks)))
    if saved and mixture:
        heads = tuple(saved["heads"])
        _set_slot(run, ranks, mixture, takes_turns)
        before = mixture.stretches[-1].weights
        mixture = mixture.changed(position, of_run)
        if mixture.stretches[-1].start == position and before != of_run:
            notices.append(f"weights changed at sequence {position:,}: {_listed(before)} before")
        _require_heads(run, {name: of_run[name] for name in with_head}, heads)
    else:
        heads = with_head
        mixture = Mixture.begin(of_run, _slot(run, ranks), run.seed)
    _require_whole_slots(run, ranks, mixture.slot_sequences, begun_with)
    token_heads = frozenset(name for name in heads if reads_tokens(run, name))
    return RunTasks(tasks, mixture, heads=heads, token_heads=token_heads, context=context, notices=notices)


def try_own_tasks(run: RunConfig, model: ModelShape, tasks: RunTasks) -> None:
    """Try the user's own tasks on their first examples. Raises UserError as try_task."""
    for name in run.extensions.tasks:
        if name in tasks.tasks:
            try_task(run, model, tasks.tasks[name], tasks.context)


def task_context(run: RunConfig, data: RunData, rows_per_pack: int) -> TaskContext:
    """Return what the tasks of a run are built and judged from."""
    return TaskContext(
        data=data.token_set if isinstance(data, Text) else data.table,
        links=data.links if isinstance(data, Text) else CrossReferences(),
        seq_len=run.batch.seq_len,
        micro_batch_size=run.batch.micro_batch_size,
        rows_per_pack=rows_per_pack,
        seed=run.seed,
        options=run.verse_tasks,
        evaluation=run.evaluation,
        masks=_masks(run, data) if isinstance(data, Text) else None,
        canaries=_canaries(run, data) if isinstance(data, Text) else None,
        shuffle_chapters=run.data.chapter_order == "shuffled",
        tokenizer=data.tokenizer if isinstance(data, Text) else None,
        strata=strata_of(run, data) if isinstance(data, Text) else None,
        curves_of=None if run.grokking.rule == "none" else run.grokking.split,
    )


def _masks(run: RunConfig, text: Text) -> Masks | None:
    if not run.masking.is_on:
        return None
    return Masks(run.masking, text.token_set, tokenizer=text.tokenizer, connectives=run.connectives.words)


def _canaries(run: RunConfig, text: Text) -> Canaries | None:
    return Canaries(run.memorisation, text.token_set, run.seed) if run.memorisation.canaries else None


def strata_of(run: RunConfig, text: Text) -> Strata | None:
    """Return what tells apart the words on which language modelling is judged; None where they are not."""
    return Strata(text.token_set, text.tokenizer, run.connectives.words) if run.evaluation.strata else None


def describe(mixture: Mixture) -> str:
    """Return the present weights in slots, in words."""
    slots = slots_per_block(mixture.stretches[-1].weights)
    return f"{_listed(slots)} of {sum(slots.values())} slots of {mixture.slot_sequences} sequences"


def _build(run: RunConfig, context: TaskContext, notices: list[str]) -> tuple[dict[str, Task], list[str]]:
    """Return the tasks that the run trains, and the notices with what to say of them."""
    tasks: dict[str, Task] = {}
    for name, weight in weights(run).items():
        try:
            require_suited_model(run, name)
            tasks[name] = task_class(run, name).build(context)
        except Unavailable as reason:
            if run.tasks:
                raise UserError(f"tasks.{name}: {weight}, but {reason}; or give it weight 0") from reason
            notices.append(f"without {name}: {reason}")
    on_verses = [task for task in tasks.values() if isinstance(task, VerseTask)]
    for task in on_verses:
        if task.share_too_long:
            notices.append(
                f"{task.share_too_long:.0%} of {task.name}'s examples do not fit in {context.rows_per_pack} rows of "
                f"{context.seq_len} tokens; a larger batch.seq_len or batch.micro_batch_size takes them in"
            )
    if on_verses and (n_too_long := context.verses("train").n_too_long):
        notices.append(f"{n_too_long:,} verses longer than {context.seq_len} tokens are in no verse task")
    return tasks, notices


def _slot(run: RunConfig, ranks: Ranks) -> int:
    """Return the sequences of a slot, where the run is free to choose."""
    return run.verse_tasks.slot_sequences or run.batch.micro_batch_size * ranks.world_size


def _set_slot(run: RunConfig, ranks: Ranks, mixture: Mixture, takes_turns: bool) -> None:
    """Set the slots of a run that goes on. Raises UserError for a change, unless one task has had all of them."""
    given = run.verse_tasks.slot_sequences
    if not takes_turns:
        mixture.slot_sequences = _slot(run, ranks)
    elif given not in (None, mixture.slot_sequences):
        raise UserError(
            f"verse_tasks.slot_sequences: {given}, but the run began with {mixture.slot_sequences} and keeps that; "
            "give the same or leave it out"
        )


def _require_heads(run: RunConfig, wanted: Mapping[str, float], heads: tuple[str, ...]) -> None:
    """Raise UserError unless a run that goes on has the heads that its tasks want, and all its heads can be made."""
    for name, weight in wanted.items():
        if name not in heads:
            raise UserError(
                f"tasks.{name}: {weight}, but this run began without it and its model has no head for it; "
                "leave it at 0, or start anew with --resume never and another --name"
            )
    meta_heads(run, heads)


def _require_whole_slots(run: RunConfig, ranks: Ranks, slot: int, at_once: int | None) -> None:
    """Raise UserError where a slot or a batch is not made of whole micro-batches, and these of whole packs.

    at_once: the rows of a pack, where the run has begun; otherwise they follow from the micro-batch.
    """
    micro, batch = run.batch.micro_batch_size, run.batch.global_batch_size

    def fits(micro: int) -> bool:
        if slot % micro or batch % (micro * ranks.world_size):
            return False
        return micro % (at_once or rows_per_pack(run.batch.seq_len, micro)) == 0

    if not fits(micro):
        valid = [size for size in range(1, slot + 1) if fits(size)]
        raise UserError(
            f"batch.micro_batch_size: {micro} on {ranks.world_size} ranks does not divide slots of {slot} sequences "
            f"(verse_tasks.slot_sequences){f' into whole packs of {at_once}' if at_once else ''}, or the batch; "
            + (f"give {', '.join(map(str, valid))}" if valid else "no size does with this number of ranks; use fewer")
        )


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {value:g}" for task, value in values.items())

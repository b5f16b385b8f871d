"""The tasks of a run: which ones, from what data, and when each has its turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genesis_ds.config import RunConfig
from genesis_ds.data.run_data import Arithmetic, RunData, Text
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine.distributed import Ranks
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.arithmetic import ModularArithmetic
from genesis_ds.tasks.base import Task, Unavailable
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.contrast import Contrast
from genesis_ds.tasks.cross_reference import CrossReference
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tasks.mixture import DEFAULT_WEIGHTS, Mixture, slots_per_block
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tasks.verse_task import VerseTask, rows_per_pack


@dataclass(frozen=True)
class RunTasks:
    """What a run trains on."""

    tasks: dict[str, Task]
    mixture: Mixture
    heads: tuple[str, ...]
    """Tasks with a head of their own. A run keeps those it began with, whatever its weights become."""
    rows_per_pack: int
    """Rows that the verse tasks fill together; as it was at the start of the run."""
    notices: list[str]
    """What the user should know: tasks left out and why, verses left out, weights changed."""

    @property
    def sequences_per_epoch(self) -> int | None:
        """Sequences in one pass over the data of LM; None without that task."""
        return self.tasks[LM].sequences_per_epoch if LM in self.tasks else None

    def epochs(self, position: int) -> float | None:
        """Passes over the data of LM before a global position; None without that task."""
        per_epoch = self.sequences_per_epoch
        return self.mixture.consumed(position).get(LM, 0) / per_epoch if per_epoch else None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; what open_tasks takes when the run is resumed."""
        return {"mixture": self.mixture.state_dict(), "heads": list(self.heads), "rows_per_pack": self.rows_per_pack}


def open_tasks(
    run: RunConfig,
    data: RunData,
    ranks: Ranks,
    saved: Mapping[str, Any] | None,
    position: int,
) -> RunTasks:
    """The tasks of a run that begins, or goes on from a saved state at a global position.

    Raises UserError for a task that was asked for and cannot be had, and for a slot that the ranks do not divide.
    """
    begun_with = saved["rows_per_pack"] if saved and saved["heads"] else None  # LM alone packs no verses
    at_once = begun_with or rows_per_pack(run.batch.seq_len, run.batch.micro_batch_size)
    tasks, notices = _of_text(run, data, at_once) if isinstance(data, Text) else _of_arithmetic(run, data)
    weights = {name: (run.tasks.given or DEFAULT_WEIGHTS)[name] for name in tasks}
    slot = run.verse_tasks.slot_sequences
    if saved:
        heads = tuple(saved["heads"])
        mixture = Mixture.from_state(saved["mixture"], run.seed)
        if not heads:  # and takes no turns
            mixture.slot_sequences = slot or run.batch.micro_batch_size * ranks.world_size
        elif slot not in (None, mixture.slot_sequences):
            raise UserError(
                f"verse_tasks.slot_sequences: {slot}, but the run began with {mixture.slot_sequences} and keeps that; "
                "give the same or leave it out"
            )
        before = mixture.stretches[-1].weights
        mixture = mixture.changed(position, weights)
        if mixture.stretches[-1].start == position and before != weights:
            notices.append(f"weights changed at sequence {position:,}: {_listed(before)} before")
        for name in weights:
            if name not in (LM, *heads):
                raise UserError(
                    f"tasks.{name}: {weights[name]}, but this run began without it and its model has no head for it; "
                    "leave it at 0, or start anew with --resume never and another --name"
                )
    else:
        heads = tuple(name for name in tasks if name != LM)
        mixture = Mixture.begin(weights, slot or run.batch.micro_batch_size * ranks.world_size, run.seed)
    _require_whole_slots(run, ranks, mixture.slot_sequences, begun_with)
    return RunTasks(tasks, mixture, heads, at_once, notices)


def describe(mixture: Mixture) -> str:
    """The present weights in slots."""
    slots = slots_per_block(mixture.stretches[-1].weights)
    return f"{_listed(slots)} of {sum(slots.values())} slots of {mixture.slot_sequences} sequences"


def _of_arithmetic(run: RunConfig, data: Arithmetic) -> tuple[dict[str, Task], list[str]]:
    return {LM: ModularArithmetic(data.table.train, run.seed)}, []


def _of_text(run: RunConfig, data: Text, at_once: int) -> tuple[dict[str, Task], list[str]]:
    wanted = run.tasks.given or DEFAULT_WEIGHTS
    verses = VerseTable(data.token_set, ["train"], run.batch.seq_len)
    options = run.verse_tasks
    contrast = Contrast(options.contrast, options.margin, options.temperature)
    shape = verses, run.batch.seq_len, at_once, run.seed
    builders: dict[str, Callable[[], Task]] = {
        LM: lambda: LanguageModelling(data.token_set, run.batch.seq_len, run.seed),
        "coherence": lambda: Coherence(*shape),
        "cross_reference": lambda: CrossReference(*shape, data.links, contrast),
        "paraphrase": lambda: Paraphrase(*shape, contrast),
    }
    tasks: dict[str, Task] = {}
    notices = [*data.notices]
    for name, build in builders.items():
        if not wanted.get(name):
            continue
        try:
            tasks[name] = build()
        except Unavailable as reason:
            if run.tasks.given:
                raise UserError(f"tasks.{name}: {wanted[name]}, but {reason}; or give it weight 0") from reason
            notices.append(f"without {name}: {reason}")
    for task in tasks.values():
        if isinstance(task, VerseTask) and task.share_too_long:
            notices.append(
                f"{task.share_too_long:.0%} of {task.name}'s examples do not fit in {at_once} rows of "
                f"{run.batch.seq_len} tokens; a larger batch.seq_len or batch.micro_batch_size takes them in"
            )
    if verses.n_too_long and any(name != LM for name in tasks):
        notices.append(f"{verses.n_too_long:,} verses longer than {run.batch.seq_len} tokens are in no verse task")
    return tasks, notices


def _require_whole_slots(run: RunConfig, ranks: Ranks, slot: int, at_once: int | None) -> None:
    """at_once: the rows of a pack, where the run has begun; otherwise they follow from the micro-batch."""
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

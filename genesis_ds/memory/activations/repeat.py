"""The events of a deep model from those of a shallow one: its middle period of blocks, repeated.

A period is `activation_checkpointing.every` blocks. The shallow model has TRACED of them, and then the blocks that are
left over at the depth wanted. Events are cut where a period is entered, forward and backward. The first period and the
last may differ from those between, and the two between must be alike: allocate the same for the same causes in the
same order, and free only what they and their neighbours have made. Then any number of them makes a model.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step
from genesis_ds.memory.shapes import BLOCK

TRACED = 4
FIRST, MIDDLE, NEXT, LAST = range(TRACED)
FORWARD, BACKWARD, OUTSIDE = "forward", "backward", "outside"
SHAPE = [
    (OUTSIDE, LAST),
    *((FORWARD, period) for period in range(TRACED)),
    (OUTSIDE, LAST),
    *((BACKWARD, period) for period in reversed(range(TRACED))),
    (OUTSIDE, LAST),
]
"""The cuts of a model that can be repeated."""


class NotPeriodicError(Exception):
    """The blocks are not alike, or not one after another."""


@dataclass(frozen=True)
class _Place:
    """Where a buffer is made: in which cut, and which of the buffers that are made there."""

    kind: str
    period: int
    number: int


@dataclass
class _Cut:
    """A stretch of events: a period in one pass, or what is outside of the periods."""

    kind: str = OUTSIDE
    period: int = LAST
    events: list[Step | str] = field(default_factory=list)


def traced_depth(n_layers: int, period: int) -> int:
    """Return the blocks of the shallow model that stands for one of n_layers; n_layers where it is no deeper."""
    return min(n_layers, TRACED * period + n_layers % period)


def repeat(events: Sequence[Step | str], period: int, more: int) -> list[Step | str]:
    """Return the events of a model with so many more periods. Raises NotPeriodicError where they cannot be told."""
    cuts = _cut(events, period)
    if [(cut.kind, cut.period) for cut in cuts] != SHAPE:
        raise NotPeriodicError
    places = _places(cuts)
    _require_alike(cuts, places, period)
    found: list[Step | str] = []
    for cut in cuts:
        indices = list(range(MIDDLE, NEXT + more)) if cut.period == MIDDLE else [_index(cut.period, more)]
        for index in indices if cut.kind == FORWARD else reversed(indices):
            found += _moved(cut, index, places, more=more, period=period)
    return found


def _index(period: int, more: int) -> int:
    """Return where a period of the shallow model stands in the deep one."""
    return period if period <= MIDDLE else period + more


def _cut(events: Sequence[Step | str], period: int) -> list[_Cut]:
    cuts, kind = [_Cut()], FORWARD
    for event in events:
        if event == BACKWARD:
            kind = BACKWARD
        if isinstance(event, Enter):
            block = BLOCK.match(event.module)
            of = int(block[2]) // period if block else TRACED
            place = (kind, of) if of < TRACED else (OUTSIDE, LAST)
            if place != (cuts[-1].kind, cuts[-1].period):
                cuts.append(_Cut(*place))
        cuts[-1].events.append(event)
    return cuts


def _places(cuts: Sequence[_Cut]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for cut in cuts:
        for event in cut.events:
            if isinstance(event, Alloc):
                places[event.key] = _Place(cut.kind, cut.period, counts[cut.kind, cut.period])
                counts[cut.kind, cut.period] += 1
    return places


def _require_alike(cuts: Sequence[_Cut], places: dict[str, _Place], period: int) -> None:
    of = {(cut.kind, cut.period): list(_relative(cut, places, period)) for cut in cuts if cut.kind != OUTSIDE}
    for kind in (FORWARD, BACKWARD):
        if of[kind, MIDDLE] != of[kind, NEXT]:
            raise NotPeriodicError
    for cut in cuts:
        freed = [places[event.key] for event in cut.events if isinstance(event, Free)]
        for place in freed:
            inside = place.kind != OUTSIDE and cut.kind != OUTSIDE
            near = abs(place.period - cut.period) <= 1 if inside else _ends(place) and _ends(cut)
            if not near:
                raise NotPeriodicError


def _ends(of: _Place | _Cut) -> bool:
    return of.kind == OUTSIDE or of.period in (FIRST, LAST)


def _relative(cut: _Cut, places: dict[str, _Place], period: int) -> Iterator[object]:
    """Yield the events as they look from the period itself."""
    for event in cut.events:
        match event:
            case Alloc():
                yield event.cause, event.nbytes, event.device
            case Free():
                place = places[event.key]
                yield place.kind, place.period - cut.period, place.number
            case _:
                yield _renamed(event, -cut.period * period)


def _moved(cut: _Cut, index: int, places: dict[str, _Place], *, more: int, period: int) -> Iterator[Step | str]:
    """Yield the events of a cut as those of the period at an index of the deep model."""
    outside = cut.kind == OUTSIDE
    by = (more if outside else index - cut.period) * period
    for event in cut.events:
        if isinstance(event, Alloc | Free):
            place = places[event.key]
            at = _index(place.period, more) if outside or place.kind == OUTSIDE else place.period + index - cut.period
            key = f"{place.kind} {at} {place.number}"
            yield Alloc(key, event.cause, event.nbytes, event.device) if isinstance(event, Alloc) else Free(key)
        else:
            yield _renamed(event, by)


def _renamed(event: Step | str, by: int) -> Step | str:
    """Return the event of the block that comes so many later."""

    def later(name: str) -> str:
        return BLOCK.sub(lambda found: f"{found[1]}{int(found[2]) + by}", name, count=1)

    match event:
        case Enter() | Leave():
            return type(event)(later(event.module))
        case Ready():
            return Ready(later(event.parameter))
    return event

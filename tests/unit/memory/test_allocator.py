"""The model of torch's allocators: cases worked out by hand from its source, and what must hold for any log."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.machine.allocator import reserved_by_phase, round_512, round_pinned
from genesis_ds.memory.machine.hardware import GIB, MIB

KIB = 1024
Log = list[tuple[str, str, int]]


def log_of(*events: str | tuple[str, int]) -> Log:
    """('a', 5): a comes with 5 bytes; 'a': a goes; 'empty': the cache is emptied."""
    timeline = Timeline(round_512)
    for event in events:
        if event == "empty":
            timeline.log.append((timeline.phase, "empty", 0))
        elif isinstance(event, str):
            timeline.free(event)
        else:
            timeline.alloc(event[0], "test", event[1])
    return timeline.log


def reserved_peak(log: Log, expandable_segments: bool, capacity: int | None = None) -> int:
    return max(reserved_by_phase(log, expandable_segments, capacity).values(), default=0)


def test_rounding() -> None:
    assert [round_512(n) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024]
    assert [round_pinned(n) for n in (0, 1, 2, 3, 4097, 2**32, 2**32 + 1)] == [0, 1, 2, 4, 8192, 2**32, 2**33]
    assert [round_pinned(n, exact_above=1000) for n in (999, 1000, 1001)] == [1024, 1024, 1001]


CASES = {
    "nothing": ((), 0, 0),
    "a small block takes a small segment": ((("a", 1),), 2, 2),
    "1 MiB is small: two share a segment": ((("a", MIB), ("b", MIB)), 2, 2),
    "three do not": ((("a", MIB), ("b", MIB), ("c", MIB)), 4, 4),
    "above 1 MiB is large": ((("a", MIB + 1),), 20, 20),
    "small and large do not mix": ((("a", 4 * MIB), ("b", KIB)), 22, 22),
    "five of 4 MiB fill a large segment": (tuple((k, 4 * MIB) for k in "abcde"), 20, 20),
    "9 MiB twice leave 2; the third opens a second": (tuple((k, 9 * MIB) for k in "abc"), 40, 40),
    "10 MiB has its own segment": ((("a", 10 * MIB), ("b", 10 * MIB)), 20, 20),
    "a multiple of 2 MiB": ((("a", 31 * MIB),), 32, 40),
    "a rest of 1 MiB is not split off": ((("a", 31 * MIB), ("b", 3 * MIB // 2)), 52, 40),
    "equal sizes reuse": ((("a", 31 * MIB), "a", ("b", 31 * MIB)), 32, 40),
    "a smaller one splits a free block": ((("a", 30 * MIB), "a", ("b", 12 * MIB), ("c", 18 * MIB)), 30, 40),
    "a larger one cannot reuse it": ((("a", 30 * MIB), "a", ("b", 32 * MIB)), 62, 40),
    "best fit takes the smallest": ((("a", 40 * MIB), ("x", MIB), ("b", 20 * MIB), "a", "b", ("c", 20 * MIB),
                                     ("d", 40 * MIB)), 62, 62),
    "free neighbours merge": ((("a", 30 * MIB), "a", ("b", 12 * MIB), ("c", 12 * MIB), "b", "c", ("d", 30 * MIB)),
                              30, 40),
    "segments do not merge": ((("a", 20 * MIB), ("b", 20 * MIB), "a", "b", ("c", 40 * MIB)), 80, 40),
    "a hole between live blocks": ((("a", 20 * MIB), ("b", 20 * MIB), ("c", 20 * MIB), "b", ("d", 22 * MIB)), 82, 100),
    "emptied": ((("a", 20 * MIB), "a", "empty", ("b", 40 * MIB)), 40, 40),
    "emptied, but split": ((("a", 40 * MIB), "a", ("b", 20 * MIB), "empty", ("c", 30 * MIB)), 70, 60),
    "emptied around a live block": ((("a", 20 * MIB), ("b", 20 * MIB), ("c", 40 * MIB), "a", "c", "empty",
                                     ("d", 30 * MIB)), 80, 80),
    "a hole is mapped again": ((("a", 40 * MIB), ("b", 20 * MIB), "a", "empty", ("c", 30 * MIB), ("d", 10 * MIB)),
                               60, 60),
}  # fmt: skip


@pytest.mark.parametrize(("events", "segments", "expandable"), CASES.values(), ids=list(CASES))
def test_by_hand(events: tuple, segments: int, expandable: int) -> None:
    log = log_of(*events)
    assert reserved_peak(log, expandable_segments=False) == segments * MIB
    assert reserved_peak(log, expandable_segments=True) == expandable * MIB


def test_phases_begin_with_what_is_cached() -> None:
    timeline = Timeline(round_512)
    timeline.alloc("a", "test", 30 * MIB)
    timeline.free("a")
    timeline.start("forward")
    timeline.alloc("b", "test", 2 * MIB)
    timeline.start("backward")
    timeline.alloc("c", "test", 50 * MIB)
    by_phase = reserved_by_phase(timeline.log, expandable_segments=False)
    assert by_phase == {"init": 30 * MIB, "forward": 30 * MIB, "backward": 80 * MIB}


@pytest.mark.parametrize("expandable", [False, True])
def test_capacity_gives_the_cache_back(expandable: bool) -> None:
    """Flattening, as ZeRO does: many small tensors die for one flat buffer, and a second follows it."""
    parts = [(f"w{i}", 4 * MIB) for i in range(50)]
    log = log_of(*parts, ("flat", 200 * MIB), *(name for name, _ in parts), ("clone", 200 * MIB))
    assert reserved_peak(log, expandable) == (400 if expandable else 600) * MIB
    assert reserved_peak(log, expandable, capacity=450 * MIB) == 400 * MIB
    assert reserved_peak(log, expandable, capacity=300 * MIB) > 300 * MIB


def random_log(seed: int, count: int, largest: int = 64 * MIB) -> Log:
    draw = random.Random(seed)
    timeline = Timeline(round_512)
    alive: list[str] = []
    for index in range(count):
        if alive and draw.random() < 0.48:
            timeline.free(alive.pop(draw.randrange(len(alive))))
        elif draw.random() < 0.01:
            timeline.log.append((timeline.phase, "empty", 0))
        else:
            alive.append(f"t{index}")
            timeline.alloc(alive[-1], "test", largest ** draw.random())
    return timeline.log


def allocated_peak(log: Log) -> int:
    held = peak = 0
    for _, _, change in log:
        held += change
        peak = max(peak, held)
    return peak


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 120), expandable=st.booleans(), capacity=st.integers(0, GIB))
def test_any_log(seed: int, count: int, expandable: bool, capacity: int) -> None:
    log = random_log(seed, count)
    reserved = reserved_peak(log, expandable)
    assert reserved >= allocated_peak(log)
    assert reserved % (2 * MIB) == 0
    prefixes = [reserved_peak(log[:end], expandable) for end in range(0, count + 1, 10)]
    assert prefixes == sorted(prefixes)
    assert reserved_peak(log, expandable, capacity=reserved) == reserved
    assert reserved_peak(log, expandable, capacity=capacity) >= allocated_peak(log)


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 64 * MIB), min_size=1, max_size=20), expandable=st.booleans())
def test_equal_steps_reuse(sizes: list[int], expandable: bool) -> None:
    step = [(f"t{i}", size) for i, size in enumerate(sizes)]
    events = [*step, *(name for name, _ in reversed(step))]
    once = reserved_peak(log_of(*events), expandable)
    assert reserved_peak(log_of(*events * 3), expandable) == once

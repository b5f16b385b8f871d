"""The parts of a profiled step."""

from types import SimpleNamespace

import pytest

from genesis_ds.bench.step_profile import covered, operators, parts


def event(name, start, end, above=None):
    time_range = SimpleNamespace(start=start * 1e6, end=end * 1e6)
    return SimpleNamespace(name=name, time_range=time_range, device_type=SimpleNamespace(name="CPU"), cpu_parent=above)


@pytest.mark.parametrize(
    ("spans", "expected"), [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 1)], 2), ([(0, 9), (2, 3), (8, 10)], 10)]
)
def test_what_overlaps_counts_once(spans, expected):
    assert covered(spans) == expected


def test_a_part_is_without_the_parts_within_it_on_whatever_thread():
    found = parts(
        [
            *(event("forward", 0, 4), event("gather", 1, 2), event("backward", 4, 10), event("reduce", 5, 8)),
            *(event("reduce", 6, 7), event("gather", 9, 11), event("step", 12, 18)),
            *(event("Optimizer.step#AdamW.step", 13, 17), event("hooks", 13, 14)),
        ]
    )
    assert found == {
        **{"gather": 3, "reduce": 3, "hooks": 1, "optimizer": 3},
        **{"data": 0, "forward": 3, "backward": 2, "step": 2},
    }


def test_an_operator_within_another_is_not_counted():
    above = event("aten::linear", 0, 1)
    assert operators([above, event("aten::mm", 0, 1, above), event("aten::add", 1, 2, event("forward", 0, 3))]) == 2

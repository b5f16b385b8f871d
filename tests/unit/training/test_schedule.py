import pytest

from genesis_ds.config.schedule import Schedule


def test_cosine_rises_to_the_peak_and_ends_at_the_minimum():
    schedule = Schedule(kind="cosine", warmup_steps=10, n_steps=100, min_ratio=0.1)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.55, abs=0.02)
    assert factors[99] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["constant", "plateau"])
def test_constant_and_plateau_stay_at_the_peak(kind):
    schedule = Schedule(kind=kind, warmup_steps=2, n_steps=5, min_ratio=0.1)
    assert [schedule.factor(step) for step in range(5)] == [0.5, 1, 1, 1, 1]

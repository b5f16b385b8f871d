import pytest

from genesis_ds.tasks.positions import next_position

LEFT_OUT = [[48, 56], [16, 24], [24, 32], [56, 64]]


@pytest.mark.parametrize(
    ("position", "next_one"), [(0, 0), (8, 8), (16, 32), (24, 32), (32, 32), (40, 40), (48, 64), (56, 64), (64, 64)]
)
def test_the_next_position_jumps_over_what_is_left_out_also_over_neighbours(position, next_one):
    assert next_position(position, LEFT_OUT) == next_one


def test_with_nothing_left_out_every_position_stands():
    assert [next_position(position, []) for position in range(4)] == [0, 1, 2, 3]

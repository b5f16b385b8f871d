import numpy as np
import pytest

from genesis_ds.analysis.spectrum import effective_rank, matrix_ranks


def test_effective_rank_is_the_number_of_equal_directions_and_less_where_they_are_unequal():
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 8)))[0]
    assert effective_rank(axes) == pytest.approx(8)
    assert effective_rank(np.outer(np.arange(1, 9), np.ones(5))) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_rank(axes[:, :3] * shares) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert effective_rank(np.zeros((4, 3))) == 0


def test_the_ranks_of_a_matrix_whose_singular_values_are_known():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (6, 9))
    values = np.array([2.0, 1.0, 1.0, 0.5])
    for matrix in ((left * values) @ right.T, (right * values) @ left.T):
        found = matrix_ranks(matrix.astype(np.float32))
        assert found["stable_rank"] == pytest.approx((4 + 1 + 1 + 0.25) / 4, rel=1e-5)
        assert found["effective_rank"] == pytest.approx(effective_rank(matrix), rel=1e-5)
    orthogonal = matrix_ranks(np.linalg.qr(rng.normal(size=(7, 7)))[0])
    assert orthogonal == {"stable_rank": pytest.approx(7), "effective_rank": pytest.approx(7)}
    assert matrix_ranks(np.outer(np.ones(5), np.arange(1, 4))) == {
        "stable_rank": pytest.approx(1),
        "effective_rank": pytest.approx(1, abs=1e-5),
    }
    assert matrix_ranks(np.zeros((3, 5))) == {"stable_rank": 0, "effective_rank": 0}

import random

import numpy as np
import torch

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.checkpoint.save.files import write_tensors
from genesis_ds.checkpoint.save.rng import rng_state, set_rng_state


def draws():
    return random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()


def test_draws_go_on_where_a_file_has_them(tmp_path):
    draws()
    write_tensors(tmp_path / "rng.pt", rng_state())
    expected = draws()
    draws()
    set_rng_state(safe_load(tmp_path / "rng.pt"))
    assert draws() == expected

"""The memory plan beside what a card has measured (tests/gpu/results)."""

import pytest
import replan
import torch

from genesis_ds.model import groups

MEASURED = {row.name: row for row in replan.measured(sorted((replan.ROOT / "tests/gpu/results").glob("*.json")))}
RECOMPUTED = "compiled, budget 0.1"
SLOW = sorted(set(MEASURED) - {"zero2", "zero3_offload", RECOMPUTED})


@pytest.mark.parametrize(
    "name", ["zero2", "zero3_offload", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_torch_reserves_on_a_gpu_what_the_plan_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # When these were measured all matrices were one group, and RoPE no product of complex numbers.
    monkeypatch.setattr(groups, "LARGEST", 2**40)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    row = MEASURED[name]
    assert replan.planned(row.command) == pytest.approx(row.reserved, rel=0.01, abs=0.1 * replan.GIB)


def test_compiled_blocks_take_at_most_what_the_plan_says() -> None:
    row = MEASURED[RECOMPUTED]
    assert row.reserved <= replan.planned(row.command) <= 1.15 * row.reserved

import pytest
import torch

from genesis_ds.engine.parameter_slices import ParameterSlice
from genesis_ds.engine.step_meter import _adamw_update, _difference


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_an_update_by_adamws_formula_is_the_difference_that_it_makes(weight_decay):
    """Squared norm, and product with the weights, of a part of a flat tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1000, generator=generator).requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=0.01, betas=(0.9, 0.95), weight_decay=weight_decay)
    for _ in range(3):
        before = weights.detach().clone()
        weights.grad = torch.randn(1000, generator=generator)
        optimizer.step()
    place = ParameterSlice(weights, offset=0, numel=600, tensor=weights, start=100)
    part = slice(100, 700)
    added = (weights.detach() - before)[part].double()
    expected = added.square().sum().item(), (added @ weights.detach()[part].double()).item()
    [group] = optimizer.param_groups
    with torch.no_grad():
        by_formula = _adamw_update(group, optimizer.state[weights], weights, place)
        by_difference = _difference(before, weights, place)
    assert by_formula == pytest.approx(expected, rel=1e-4)
    assert by_difference == pytest.approx(expected, rel=1e-4)

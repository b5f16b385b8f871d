from types import SimpleNamespace

import pytest
import torch

from genesis_ds.engine import perpendicular
from genesis_ds.engine.parameter_slices import ParameterSlice
from genesis_ds.engine.perpendicular import PerpendicularGradient
from genesis_ds.engine.ranks import Ranks


@pytest.fixture
def hook_of(monkeypatch):
    """Parameters that are updated whole on one rank -> the hook."""

    def make(*parameters):
        slices = [ParameterSlice(each, 0, each.numel(), each, 0) for each in parameters]
        monkeypatch.setattr(perpendicular, "parameter_slices", lambda engine, rank: slices)
        module = SimpleNamespace(parameters=lambda: iter(parameters))
        engine = SimpleNamespace(module=module, zero_optimization_stage=lambda: 0)
        return PerpendicularGradient(engine, Ranks(0, 0, 1), torch.device("cpu"))

    return make


def turned(hook_of, weight, gradient):
    parameter = torch.nn.Parameter(weight)
    parameter.grad = gradient.clone()
    hook_of(parameter).before(torch.optim.SGD([parameter], lr=1.0))
    return parameter.grad


def test_what_is_left_is_perpendicular_and_as_long_as_before(hook_of, monkeypatch):
    monkeypatch.setattr(perpendicular, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(5, 9, generator=generator) for _ in range(2))
    found = turned(hook_of, weight, gradient)
    assert (weight * found).sum().item() == pytest.approx(0, abs=1e-5)
    assert found.norm().item() == pytest.approx(gradient.norm().item())
    plane = torch.stack([weight.flatten(), gradient.flatten(), found.flatten()])
    assert torch.linalg.matrix_rank(plane, rtol=1e-5) == 2, "nothing but the weight is taken away"


def test_a_gradient_along_the_weight_is_taken_away_and_one_of_a_weight_of_zeros_stays(hook_of):
    weight = torch.arange(1.0, 7.0)
    assert not turned(hook_of, weight, 3 * weight).any()
    torch.testing.assert_close(turned(hook_of, torch.zeros(6), weight), weight)


def test_a_parameter_without_a_gradient_is_left_alone(hook_of):
    used, idle = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    used.grad = torch.tensor([1.0, 0.0, 0.0])
    hook_of(used, idle).before(torch.optim.SGD([used, idle], lr=1.0))
    assert idle.grad is None
    assert used.grad.sum().item() == pytest.approx(0, abs=1e-6)

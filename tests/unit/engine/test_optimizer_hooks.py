from dataclasses import dataclass

import pytest
import torch

from genesis_ds.config import WeightAverageConfig
from genesis_ds.engine.optimizer_hooks import HeadUpdates, WeightAverage, register
from genesis_ds.optimizers.registry import WEIGHT_AVERAGE


@dataclass
class OldCheckpoint:
    """What is read of a checkpoint that was saved when the steps stood for the count."""

    global_steps: int
    kept: dict
    n_averaged = None
    shapes = ("weight",)

    def state_keys(self, name):
        return [*self.kept]


def averaged(skipped=(), *, n=8, start=0, every=1, take_up=None):
    """The mean after n steps, some of them without an update, and the weights that each of the others has left."""
    weight = torch.nn.Parameter(torch.tensor([10.0]))
    optimizer = torch.optim.SGD([{"name": "matrices", "params": [weight]}], lr=1.0)
    heads = HeadUpdates()
    average = WeightAverage(WeightAverageConfig(kind="swa"), heads, start=start, every=every)
    register([average, heads], optimizer)
    left = {}
    for average.step in range(n):
        if average.step not in skipped:
            weight.grad = torch.ones(1)
            optimizer.step()
            left[average.step] = weight.item()
        average.end_step(average.step not in skipped)
        if average.step == take_up:
            average.n_averaged = -1
            average.take_up(OldCheckpoint(global_steps=average.step + 1, kept=optimizer.state[weight]))
    return optimizer.state[weight][WEIGHT_AVERAGE].item(), left


@pytest.mark.parametrize("skipped", [(), (0,), (2,), (3,), (0, 1, 2), (2, 3, 4), (7,)])
@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (2, 2)])
def test_swa_is_the_mean_of_the_updates_that_there_were(skipped, start, every):
    mean, left = averaged(skipped, start=start, every=every)
    taken = [weight for step, weight in left.items() if step >= start and (step - start) % every == 0]
    assert mean == pytest.approx(sum(taken) / len(taken))


@pytest.mark.parametrize("saved_after", range(8))
def test_a_checkpoint_without_the_count_has_that_of_its_steps(saved_after):
    assert averaged(start=2, every=2, take_up=saved_after) == averaged(start=2, every=2)

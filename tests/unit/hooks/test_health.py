import json
from contextlib import nullcontext

import pytest
import torch

from genesis_ds import metrics
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.observe.health import Health, _equations
from genesis_ds.model.output import IGNORE


def health(logits, targets):
    """The hook on rows whose logits [n, T, V] are given; a row's tokens are its number."""
    numbers = torch.arange(len(targets))[:, None].expand(targets.shape)
    return Health(
        logits=lambda tokens: logits[tokens[:, 0]],
        evaluating=nullcontext,
        tokens=numbers,
        targets=targets,
        every=100,
        micro_batch_size=2,
        device=torch.device("cpu"),
    )


def certain_of(targets, n, vocab_size=5):
    """Logits that leave no loss to the first n targets in fp32, and some to the others."""
    logits = torch.zeros(*targets.shape, vocab_size)
    margins = torch.where(torch.arange(targets.numel()) < n, 30.0, 5.0).view(targets.shape)
    return logits.scatter(-1, targets.clamp(min=0)[..., None], margins[..., None])


def measured(hook, step=1):
    record = StepRecord(step, 10**6)
    hook.on_step(record)
    return record


def test_the_share_of_tokens_without_a_loss_is_exact():
    targets = torch.arange(12).view(3, 4) % 5
    assert measured(health(certain_of(targets, 7), targets)).metrics[metrics.ZERO_LOSS] == 7 / 12


def test_what_is_not_asked_does_not_count():
    targets = torch.arange(12).view(3, 4) % 5
    logits = certain_of(targets, 7)
    targets[0, 1:] = targets[2, 3] = IGNORE
    assert measured(health(logits, targets)).metrics[metrics.ZERO_LOSS] == 4 / 8


def test_bf16_logits_are_judged_in_fp32():
    targets = torch.arange(12).view(3, 4) % 5
    logits = torch.where(certain_of(targets, 12) > 0, 12.0, 0.0).bfloat16()
    assert measured(health(logits, targets)).metrics[metrics.ZERO_LOSS] == 0


def test_the_scale_of_the_logits_is_that_of_what_the_loss_sees():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 50, generator=generator)
    targets = torch.zeros(3, 4, dtype=torch.long)
    centred = logits - logits.mean(-1, keepdim=True)
    shift = 100 * torch.randn(3, 4, 1, generator=generator)
    for moved in (logits, logits + shift):
        scale = measured(health(moved, targets)).metrics[metrics.LOGIT_SCALE]
        assert scale == pytest.approx(centred.pow(2).mean().sqrt().item(), rel=1e-4)


def test_a_collapse_is_said_once_also_after_a_resume():
    targets = torch.zeros(5, 4, dtype=torch.long)
    hook = health(certain_of(targets, 1), targets)
    assert not measured(hook).texts, "0.05 is not yet one"
    hook.logits = health(certain_of(targets, 2), targets).logits
    assert "10% of the training tokens" in measured(hook, 100).texts[metrics.COLLAPSE]
    assert not measured(hook, 200).texts
    resumed = health(certain_of(targets, 20), targets)
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    assert not measured(resumed, 300).texts


def test_it_measures_at_the_first_step_and_with_the_trajectory():
    targets = torch.zeros(5, 4, dtype=torch.long)
    hook = health(certain_of(targets, 0), targets)
    assert [step for step in range(1, 301) if measured(hook, step).metrics] == [1, 100, 200, 300]


def test_arithmetic_is_judged_by_its_answers():
    train = arithmetic_table(7, "add", 0.5, seed=0).train
    tokens, targets = _equations(train)
    assert (targets != IGNORE).sum(1).tolist() == [1] * len(train)
    assert targets[:, -1].tolist() == ((tokens[:, 0] + tokens[:, 1]) % 7).tolist()

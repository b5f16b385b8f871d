"""What the plan of a run with a teacher counts, and where it puts the teacher."""

import dataclasses

import pytest

from genesis_ds.config import BatchConfig, DistillConfig, ModelShape, RunConfig
from genesis_ds.memory.activations.teacher import teacher_memory
from genesis_ds.memory.answers.advice import advise
from genesis_ds.memory.machine.hardware import find_hardware
from genesis_ds.memory.scenario import Scenario

SHAPE = {"dim": 256, "n_heads": 4, "intermediate_size": 512}
TEACHER = ModelShape(vocab_size=8000, n_layers=40, **SHAPE)
B, T, V = 4, 256, 8000
LOGITS = B * T * V


def scenario(n=1, device="auto", gpu=None):
    model = ModelShape(vocab_size=V, n_layers=2, **SHAPE)
    batch = BatchConfig(seq_len=T, micro_batch_size=B, global_batch_size=2 * B)
    run = RunConfig(model=model, batch=batch, tasks={"lm": 1}, distill=DistillConfig(["a"] * n, device=device))
    hardware = find_hardware("h100") if gpu is None else dataclasses.replace(find_hardware("h100"), gpu_bytes=gpu)
    teachers = (TEACHER,) * n
    return Scenario(run, "run", {"bf16": {"enabled": True}}, "zero0", hardware, teachers=teachers)


def without(of):
    return dataclasses.replace(of, run=dataclasses.replace(of.run, distill=DistillConfig()), teachers=())


@pytest.mark.parametrize(("n", "bytes_of_a_logit"), [(1, 10), (3, 14)])
def test_an_evaluation_holds_one_members_logits_in_bf16_and_fp32_probabilities_and_the_sum(n, bytes_of_a_logit):
    found = teacher_memory(scenario(n).sized(), "gpu")
    assert found.weights == n * 2 * TEACHER.n_parameters
    assert found.evaluation == pytest.approx(bytes_of_a_logit * LOGITS, rel=0.05)
    assert found.probabilities == 4 * LOGITS


@pytest.mark.parametrize("n", [1, 3])
def test_a_plan_counts_the_weights_where_they_are_and_the_probabilities_in_a_micro_step(n):
    on_gpu, on_host, plain = (each.plan() for each in (scenario(n, "cuda"), scenario(n, "cpu"), without(scenario(n))))
    assert (on_gpu.teacher, on_host.teacher, plain.teacher) == ("gpu", "host", None)
    weights = n * TEACHER.n_parameters
    assert on_gpu.gpu.breakdown["teacher"] == pytest.approx(2 * weights, rel=0.01)
    assert on_host.host.breakdown["teacher"] > 4 * (weights + LOGITS)
    assert "teacher" not in on_host.gpu.breakdown
    kept = on_host.gpu.allocated_peak_bytes - plain.gpu.allocated_peak_bytes
    # What it says in fp32 and the student's log-probabilities, and what the backward pass holds of both losses at once.
    assert 8 * LOGITS <= kept <= 16 * LOGITS
    assert on_gpu.gpu.allocated_peak_bytes - on_host.gpu.allocated_peak_bytes == pytest.approx(2 * weights, rel=0.01)


def test_auto_takes_the_gpu_where_the_plan_fits_and_the_host_where_it_does_not():
    assert scenario().plan().teacher == "gpu"
    needed = scenario(device="cpu").plan().gpu.peak_bytes + find_hardware("h100").held_bytes
    tight = needed + TEACHER.n_parameters  # half of its weights in bf16
    plans = {device: scenario(device=device, gpu=tight).plan() for device in ("auto", "cuda", "cpu")}
    assert (plans["auto"].teacher, plans["auto"].fits) == ("host", True)
    assert (plans["cuda"].teacher, plans["cuda"].fits) == ("gpu", False)
    assert plans["auto"].gpu == plans["cpu"].gpu
    assert any("distill.device cpu" in line for line in advise(scenario(device="cuda", gpu=tight), plans["cuda"]))

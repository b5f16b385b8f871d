"""The bytes that a plan says a step sends are those that DeepSpeed hands to torch's collectives, two ranks on CPUs."""

import json
from collections import defaultdict

import pytest
from helpers.jobs import ROOT, TINY

from genesis_ds.config.parse import parse_arguments
from genesis_ds.memory.answers.command import _scenario, flags
from genesis_ds.memory.deepspeed.traffic import collectives

COUNTING = f"""
import json, os, runpy
import torch
import torch.distributed as dist
from genesis_ds.engine.engine import Engine

seen, steps = {{}}, []
def count(name, kind):
    call = getattr(dist, name)
    def counted(*args, **named):
        nbytes = max(t.nbytes for t in (*args, *named.values()) if isinstance(t, torch.Tensor))
        calls, total = seen.get(kind, (0, 0))
        seen[kind] = (calls + 1, total + nbytes)
        return call(*args, **named)
    setattr(dist, name, counted)
for name, kind in (("all_reduce", "all-reduce"), ("reduce", "reduce-scatter"), ("all_gather_into_tensor", "all-gather"),
                   ("reduce_scatter_tensor", "reduce-scatter")):
    count(name, kind)
step = Engine.step
def stepped(self, *args, **named):
    result = step(self, *args, **named)
    steps.append(dict(seen))
    return result
Engine.step = stepped
try:
    runpy.run_path({str(ROOT / "launch/train.py")!r}, run_name="__main__")
finally:
    if os.environ["RANK"] == "0":
        print("steps", json.dumps(steps))
"""
PIECES = {"reduce_bucket_size": 20_000, "allgather_bucket_size": 20_000}
PIECES3 = {
    "reduce_bucket_size": 20_000,
    "stage3_prefetch_bucket_size": 5_000,
    "stage3_param_persistence_threshold": 100,
    "stage3_max_reuse_distance": 10_000,
    "stage3_max_live_parameters": 20_000,
}


@pytest.mark.parametrize(
    "zero",
    [
        pytest.param({"stage": 0}, marks=pytest.mark.slow),
        pytest.param({"stage": 1}, marks=pytest.mark.slow),
        {"stage": 2, **PIECES},
        pytest.param({"stage": 2, "use_multi_rank_bucket_allreduce": False, **PIECES}, marks=pytest.mark.slow),
        pytest.param({"stage": 3, **PIECES3}, marks=pytest.mark.slow),
        {"stage": 3, **PIECES3, "stage3_max_reuse_distance": 0},
    ],
    ids=lambda zero: "-".join(map(str, zero.values())),
)
def test_what_a_step_sends_is_as_planned(train_py, tmp_path, zero):
    script, ds_config = tmp_path / "counting.py", tmp_path / "ds.json"
    script.write_text(COUNTING)
    ds_config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": zero}))
    words = ["--model.n_layers", "4", "--batch.micro_batch_size", "2", "--ds_config", str(ds_config)]
    done = train_py(*words, "--max_steps", "4", ranks=2, script=script)
    assert done.returncode == 0, done.stdout[-3000:]
    steps = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("steps ")).removeprefix("steps ")
    )

    tiny = [str(word) for pair in TINY.items() for word in pair]
    arguments = parse_arguments([*tiny, *words, "--hardware", "cpu", "--gpus", "2"], flags(), "test", "")
    planned = defaultdict(lambda: [0, 0])
    for found in collectives(_scenario(arguments).sized(), 2, gpu=False):
        planned[found.kind][0] += found.calls
        planned[found.kind][1] += found.buffer_bytes
    before = defaultdict(lambda: (0, 0), steps[-2])
    last = {kind: (calls - before[kind][0], nbytes - before[kind][1]) for kind, (calls, nbytes) in steps[-1].items()}
    assert set(planned) <= set(last)
    for kind, (calls, nbytes) in last.items():
        assert nbytes == pytest.approx(planned[kind][1], rel=0.01, abs=1_000), kind  # a norm and a loss are some bytes
        if kind == "all-gather":
            assert planned[kind][0] / 2 < calls < planned[kind][0] * 2

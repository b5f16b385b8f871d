"""A plan as text, JSON, picture and table."""

import builtins
import dataclasses
import json
import math

import pytest

from genesis_ds.errors import UserError
from genesis_ds.memory.answers.report import (
    format_count,
    format_plan,
    format_table,
    merge_spans,
    phase_spans,
    plan_to_dict,
    plot_plan,
)
from genesis_ds.memory.machine.hardware import GIB, MIB, NAMED, Hardware
from genesis_ds.memory.plan import DevicePlan, Plan, TableRow


def gpu_curve(layers: int = 104) -> list[tuple[str, int]]:
    """A ZeRO-2 offload step: flat weights and a clone at init, activations up and down, buckets in backward."""
    weights, block, bucket = int(3.9 * GIB), 10 * MIB, 100 * MIB
    curve = [("init", weights), ("init", 2 * weights), ("init", weights)]
    for _ in range(2):
        for layer in range(layers):
            curve += [("forward", weights + layer * block + 300 * MIB), ("forward", weights + (layer + 1) * block)]
        for layer in reversed(range(layers)):
            held = weights + layer * block + bucket
            curve += [("backward", held + 400 * MIB), ("backward", held + 700 * MIB), ("backward", held)]
    return [*curve, ("step", weights + 200 * MIB), ("step", weights)]


def host_curve() -> list[tuple[str, int]]:
    curve = [("init", 8 * GIB), ("init", 12 * GIB), ("init", 20 * GIB), ("backward", 24 * GIB)]
    curve += [("step", int(24 * GIB + 16 * GIB * min(1, math.sqrt(i / 50)))) for i in range(100)]
    return [*curve, ("save", 44 * GIB), ("save", 40 * GIB)]


@pytest.fixture
def plan() -> Plan:
    hardware = NAMED["rtx4070"]
    causes = {"bf16 weights": 4 * GIB, "fp32 clone": 4 * GIB, "outside torch": GIB // 2}
    phases = {"init": 8 * GIB + GIB // 2, "forward": 5 * GIB, "backward": 6 * GIB, "step": 5 * GIB}
    gpu = DevicePlan(12 * GIB, hardware.usable_gpu_bytes, 8 * GIB, 8 * GIB + GIB // 2, "init", causes, phases,
                     gpu_curve())  # fmt: skip
    on_host = {"Python and its libraries": 2 * GIB, "Adam m and v": 16 * GIB, "fp32 master": 26 * GIB}
    host = DevicePlan(64 * GIB, hardware.usable_host_bytes, 42 * GIB, 44 * GIB, "save", on_host,
                      {"init": 20 * GIB, "backward": 24 * GIB, "step": 40 * GIB, "save": 44 * GIB},
                      host_curve())  # fmt: skip
    return Plan(
        parameters=2_114_000_000, model="frontier_2b (104 layers x 1280)",
        run="zero2_offload.json, 2 x 2048 tokens, bf16, block checkpointing", hardware=hardware, gpu=gpu, host=host,
        advice=["ZeRO-2 offload is faster than ZeRO-3 here"], notes=["pinned memory rounded to powers of two"],
    )  # fmt: skip


def crowded(device: DevicePlan, usable: int) -> DevicePlan:
    return dataclasses.replace(device, usable_bytes=usable)


def without_gpu(plan: Plan) -> Plan:
    gpu = DevicePlan(0, 0, 0, 0, "init", {}, {}, [])
    return dataclasses.replace(plan, gpu=gpu, hardware=NAMED["cpu"])


def test_what_follows_from_the_devices(plan: Plan) -> None:
    assert plan.fits
    assert plan.binds == "host"
    assert plan.host.left_bytes == 13 * GIB
    full = dataclasses.replace(plan, gpu=crowded(plan.gpu, 8 * GIB))
    assert not full.fits
    assert full.binds == "gpu"
    assert full.gpu.left_bytes == -GIB // 2
    assert without_gpu(plan).fits
    assert without_gpu(plan).binds == "host"


def test_a_breakdown_adds_up(plan: Plan) -> None:
    with pytest.raises(AssertionError, match="add up"):
        dataclasses.replace(plan.gpu, breakdown={"bf16 weights": 1})


def test_page(plan: Plan) -> None:
    page = format_plan(plan)
    assert "predictions; nothing was run" in page
    assert "2.11 billion parameters" in page
    assert "verdict    fits; the host binds next: 77% of what is usable in save" in page
    assert "GPU: peak 8.50 GiB in init; 11.20 GiB usable (of 12.00 GiB); 2.70 GiB left" in page
    assert "fp32 master                  26.00 GiB   59.1%" in page
    assert "peak by phase: init 8.50 GiB, forward 5.00 GiB" in page
    assert "- ZeRO-2 offload is faster than ZeRO-3 here" in page
    assert all(f"  - {line}" in page for line in plan.hardware.reserves)
    assert page.index("fp32 master") < page.index("Adam m and v") < page.index("Python and its libraries")


def test_page_of_what_does_not_fit(plan: Plan) -> None:
    full = dataclasses.replace(plan, gpu=crowded(plan.gpu, 8 * GIB), host=crowded(plan.host, 43 * GIB), advice=[])
    page = format_plan(full)
    assert "DOES NOT FIT: over the GPU by 0.50 GiB in init and the host by 1.00 GiB in save" in page
    assert "0.50 GiB too much" in page
    assert "What to change" not in page


def test_page_without_a_gpu_and_with_several_nodes(plan: Plan) -> None:
    assert "\nGPU: none\n" in format_plan(without_gpu(plan))
    many = Hardware("cluster", 80 * GIB, 512 * GIB, 8, 2)
    assert "cluster, 16 ranks on 2 nodes" in format_plan(dataclasses.replace(plan, hardware=many))


def test_a_plan_of_weights_alone_says_so_in_its_verdict(plan: Plan) -> None:
    verdict = "\nverdict    the weights fit, and ACTIVATIONS ARE NOT COUNTED (see Notes); the host binds next: "
    assert verdict in format_plan(dataclasses.replace(plan, is_whole=False))


def test_stable_keys(plan: Plan) -> None:
    told = json.loads(json.dumps(plan_to_dict(plan)))
    of_run = ["model", "run", "hardware", "activations_counted", "notes"]
    assert list(told) == ["parameters", "gpu", "host", "fits", "binds", "advice", *of_run]
    sizes = ["capacity_bytes", "usable_bytes"]
    of_device = ["peak_bytes", "allocated_peak_bytes", "phase", *sizes, "breakdown", "phases"]
    assert list(told["gpu"]) == list(told["host"]) == of_device
    assert told["host"]["peak_bytes"] == 44 * GIB == sum(told["host"]["breakdown"].values())
    assert (told["fits"], told["binds"], told["gpu"]["phase"]) == (True, "host", "init")


def test_table(plan: Plan) -> None:
    full = dataclasses.replace(plan, host=crowded(plan.host, 43 * GIB))
    rows = [
        TableRow("frontier_2b", "zero2_offload", plan),
        TableRow("frontier_2b", "zero2", full),
        TableRow("tiny", "zero2_offload", without_gpu(plan)),
        TableRow("tower_144", "zero3_nvme", None, "needs a disk"),
        TableRow("tower_144", "zero2_offload", full),
        TableRow("tower_144", "zero2_offload_bf16", plan),
    ]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["preset", "parameters", "ds_config", "fits", "binds", "GPU", "peak", "in", "host",
                                "peak", "in"]  # fmt: skip
    assert lines[2].split()[3:] == ["zero2_offload", "yes", "host", "8.50", "GiB", "init", "44.00", "GiB", "save"]
    assert " NO " in lines[3]
    assert " none " in lines[4]
    assert lines[8] == "tower_144 x zero3_nvme: needs a disk"
    assert lines[9].startswith("tower_144: fits with bf16 masters and moments alone; ")
    assert len({line.index("GiB  save") for line in lines[2:5]}) == 1


def test_counts() -> None:
    counted = [format_count(n) for n in (999_999, 61_612_345, 2_114_000_000)]
    assert counted == ["999,999", "61.6 million", "2.11 billion"]


def test_devices_share_the_phases() -> None:
    gpu = [("init", 1), ("forward", 2), ("backward", 3), ("forward", 4), ("backward", 5), ("backward", 6)]
    host = [("init", 1), ("backward", 2), ("backward", 2), ("step", 3)]
    assert phase_spans(gpu)["backward", 1] == [5, 6]
    merged = merge_spans([phase_spans(gpu), phase_spans(host)])
    assert [phase for phase, _ in merged] == ["init", "forward", "backward", "step", "forward", "backward"]


def test_picture(plan: Plan, tmp_path) -> None:
    path = tmp_path / "plan.png"
    plot_plan(plan, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plot_plan(without_gpu(plan), path)


@pytest.mark.parametrize("name", ["missing/plan.png", "plan.nonsense", ""])
def test_picture_that_cannot_be_written(plan: Plan, tmp_path, name: str) -> None:
    with pytest.raises(UserError, match=r"^--plot .*: (not a kind of picture|it is in no directory)") as caught:
        plot_plan(plan, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_picture_without_matplotlib(plan: Plan, tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def no_matplotlib(name: str, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(UserError, match="pip install matplotlib"):
        plot_plan(plan, tmp_path / "plan.png")

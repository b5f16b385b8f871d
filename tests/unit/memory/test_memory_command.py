import json
import re
from pathlib import Path

import pytest

from genesis_ds.cli import main

ROOT = Path(__file__).parents[3]
FRONTIER = ["memory", "--config", f"{ROOT}/launch/runs/frontier_2b.yaml", "--hardware", "rtx4070"]
ZERO2_OFFLOAD = ["--ds_config", f"{ROOT}/ds_configs/zero2_offload.json"]
ZERO2 = ["--ds_config", f"{ROOT}/ds_configs/zero2.json"]
ZERO3_OFFLOAD = ["--ds_config", f"{ROOT}/ds_configs/zero3_offload.json"]


def plan(capsys, *arguments, expect):
    assert main([*FRONTIER, *arguments, "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def test_the_frontier_fits_offloaded_and_its_parts_add_up(capsys):
    told = plan(capsys, *ZERO2_OFFLOAD, expect=0)
    coherence, projection = 4 * 1280**2 + 1280, 1280**2 + 128 * 1280
    assert told["parameters"] == 2_114_080_000 + coherence + 2 * projection
    assert told["fits"]
    assert told["binds"] in ("gpu", "host")
    for device in (told["gpu"], told["host"]):
        assert sum(device["breakdown"].values()) == device["peak_bytes"]
        assert device["phase"] in ("init", "forward", "backward", "step", "save")
    assert told["gpu"]["breakdown"]["weights"] >= 2 * told["parameters"]
    assert told["host"]["breakdown"]["optimizer state"] == pytest.approx(8 * told["parameters"], rel=0.01)


def test_a_run_of_arithmetic_has_the_vocabulary_of_its_table(capsys):
    run = ["memory", "--config", f"{ROOT}/launch/runs/modular_addition.yaml", "--hardware", "rtx4070", *ZERO2, "--json"]
    totals = []
    for modulus in (97, 113):
        assert main([*run, "--arithmetic.modulus", str(modulus)]) == 0
        totals.append(json.loads(capsys.readouterr().out)["parameters"])
    assert totals[1] - totals[0] == 128 * (113 - 97)


def test_what_does_not_fit_is_exit_code_1_with_a_way_that_does(capsys):
    told = plan(capsys, *ZERO2, expect=1)
    assert told["binds"] == "gpu"
    assert any("zero2_offload.json" in advice for advice in told["advice"])


def test_a_host_that_is_too_small_for_fp32_masters_is_told_of_bf16_ones_and_holds_them(capsys):
    machine = ["--vram", "12GiB", "--ram", "40GiB", "--json"]
    run = ["memory", "--config", f"{ROOT}/launch/runs/frontier_2b.yaml", *machine]
    assert main([*run, *ZERO2_OFFLOAD]) == 1
    advised, _, costs = json.loads(capsys.readouterr().out)["advice"][0].partition(": ")
    assert advised == "ds_configs/zero2_offload_bf16.json"
    assert "held-out loss" in costs
    assert main([*run, "--ds_config", f"{ROOT}/{advised}"]) == 0


def test_each_change_that_alone_makes_it_fit_is_named_with_the_largest_micro_batch_that_does(capsys):
    run = ["memory", "--config", f"{ROOT}/launch/runs/deep_50m.yaml", "--hardware", "rtx4070", *ZERO2, "--json"]
    batch = ["--batch.global_batch_size", "24", "--batch.micro_batch_size"]
    assert main([*run, *batch, "24"]) == 1
    advice = json.loads(capsys.readouterr().out)["advice"]
    assert [line.partition(":")[0] for line in advice] == [
        "batch.micro_batch_size 8",
        "compile.activation_memory_budget 0.1",
        "activation_checkpointing.mode block",
    ]  # fmt: skip
    assert [main([*run, *batch, size]) for size in ("8", "12")] == [0, 1]


def test_zero3_on_one_gpu_is_told_that_zero2_is_faster(capsys):
    told = plan(capsys, *ZERO3_OFFLOAD, expect=0)
    assert any("ZeRO-2 offload" in advice for advice in told["advice"])


def test_what_is_advised_keeps_bf16_masters_and_names_their_file(capsys):
    deep = ["--model.n_layers", "150"]
    told = plan(capsys, "--ds_config", f"{ROOT}/ds_configs/zero3_offload_bf16.json", *deep, expect=0)
    assert any("ds_configs/zero2_offload_bf16.json" in advice for advice in told["advice"])
    plan(capsys, *ZERO2_OFFLOAD, *deep, expect=1)


def test_pinned_rounding_is_named_and_exact_pinning_saves_it(capsys):
    rounded = plan(capsys, *ZERO2_OFFLOAD, expect=0)
    exact = plan(capsys, *ZERO2_OFFLOAD, "--exact_pinning", expect=0)
    assert any("powers of two" in advice for advice in rounded["advice"])
    assert exact["host"]["peak_bytes"] < rounded["host"]["peak_bytes"]


def test_fit_prints_the_largest_that_fits(capsys):
    assert main([*FRONTIER, *ZERO2_OFFLOAD, "--fit", "layers"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "searching the largest layers that fits; a large model takes minutes\n"
    first, second, *_ = printed.out.splitlines()
    assert first.startswith("largest that fits rtx4070: ")
    assert second.startswith("Memory plan, per rank.")


def test_a_search_as_json_is_json(capsys):
    told = plan(capsys, *ZERO2_OFFLOAD, "--fit", "micro_batch", expect=0)
    assert re.match(r"batch.micro_batch_size (\d+) with batch.global_batch_size (\d+)", told["largest"])
    assert told["activations_counted"]


def test_a_budget_that_no_block_has_is_a_note(capsys):
    budget = ("--compile.activation_memory_budget", "0.5")
    recomputed = plan(capsys, *ZERO2_OFFLOAD, *budget, expect=0)
    assert recomputed["notes"][0].startswith("compile.activation_memory_budget: 0.5 is not in this plan: ")
    within = plan(capsys, *ZERO2_OFFLOAD, *budget, "--activation_checkpointing.mode", "none", expect=1)
    assert not [note for note in within["notes"] if "budget" in note]
    assert "recomputed: none, of compiled blocks all but 0.5 of the activations" in within["run"]


def test_the_picture_is_drawn(tmp_path, capsys):
    assert main([*FRONTIER, *ZERO2_OFFLOAD, "--plot", str(tmp_path / "plan.png")]) == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_the_presets_that_were_asked_for(capsys):
    assert main(["memory", "--hardware", "rtx4070", "--table", "--presets", "quickstart"]) == 0
    *rows, _, said = capsys.readouterr().out.splitlines()[2:]
    assert "batch.micro_batch_size 8, batch.seq_len 256 and activation_checkpointing.mode block" in said
    assert {row.split()[0] for row in rows} == {"quickstart"}
    assert len(rows) == len(list((ROOT / "ds_configs").glob("*.json")))


def test_a_machine_by_numbers_and_ranks_that_share_it(capsys):
    numbers = ["memory", *ZERO2_OFFLOAD, "--config", FRONTIER[2], "--vram", "12GiB", "--ram", "64GiB", "--gpus", "2"]
    assert main([*numbers, "--json"]) in (0, 1)
    two = json.loads(capsys.readouterr().out)
    one = plan(capsys, *ZERO2_OFFLOAD, expect=0)
    assert two["host"]["breakdown"]["optimizer state"] == pytest.approx(
        one["host"]["breakdown"]["optimizer state"] / 2, rel=0.01
    )


def test_a_setting_exported_as_advised_counts_in_the_next_plan(monkeypatch, capsys):
    by_flag = plan(capsys, *ZERO2_OFFLOAD, "--exact_pinning", "--expandable_segments", expect=0)
    monkeypatch.setenv("DS_PIN_MEMORY_BACKEND", "native")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    exported = plan(capsys, *ZERO2_OFFLOAD, expect=0)
    assert (exported["gpu"], exported["host"]) == (by_flag["gpu"], by_flag["host"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "--presets", "quikstart"], "did you mean 'quickstart'?"),
        (["--presets", "quickstart"], "give --model.preset"),
        (["--table", "--plot", "plan.png"], "give one of them"),
        (["--hardware", "rtx4071"], "rtx4070"),
        (["--hardware", "rtx4070", "--vram", "12GiB"], "--vram and --ram go together"),
        (["--vram", "minus", "--ram", "64GiB"], "minus"),
        (["--fit", "depth"], "give one of layers, width, micro_batch, seq_len, model"),
        (["--gpus", "two"], "--gpus"),
        (["--model.n_heads", "7"], "model.n_heads: 7"),
        (["--hooks.descent", "{every: 2}"], "hooks.descent: no hook of extensions.hooks has this name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(["memory", "--config", FRONTIER[2], *ZERO2_OFFLOAD, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_hosts_have_their_bytes_step_and_fastest_ds_config(capsys):
    run = ["memory", "--config", f"{ROOT}/launch/runs/frontier_1b.yaml", *ZERO2, "--hardware", "a100-80g"]
    hosts = ["--nodes", "4", "--gpus", "4"]
    assert main([*run, *hosts, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["sent_bytes"]) == {"all-reduce", "all-gather"}
    assert told["step"]["seconds"] >= told["step"]["compute"] + told["step"]["network"] > told["step"]["compute"]
    assert told["fastest_ds_config"] == "zero2"
    assert main([*run, *hosts, "--network", "10"]) == 0
    assert "to other nodes 0.3125 GB/s for each card" in capsys.readouterr().out
    assert main([*run, "--scaling"]) == 0
    assert "1,024" not in capsys.readouterr().out  # the global batch is 32
    assert main([*run, "--scaling", "--fit", "layers"]) == 2
    assert main([*run, "--hardware", "cpu", "--scaling"]) == 2

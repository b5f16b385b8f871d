"""A checkpoint goes on under another number of ranks, ZeRO stage, offload setting and optimizer implementation."""

import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from test_zero_parity import GROKFAST, LATE, OFFLOAD, OFFLOAD_ALL, zero

from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.config import ActivationCheckpointingConfig
from genesis_ds.engine.saved_state import require_same_model
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import build_model
from genesis_ds.tasks.load import make_heads

from worker import run_of  # isort: skip

TINY = {"sub_group_size": 3000}
"""Cuts the matrices into several sub-groups."""
LAYOUTS = {
    "0": {"ds_config": zero(0)},
    "1": {"ds_config": zero(1)},
    "2": {"ds_config": zero(2)},
    "2 round robin": {"ds_config": zero(2, round_robin_gradients=True)},
    "2 aligned": {"ds_config": zero(2, parameter_alignment=True)},
    "2 offload torch": {"ds_config": zero(2, **OFFLOAD), "implementation": "torch"},
    "2 offload cpu_adam": {"ds_config": zero(2, **OFFLOAD), "implementation": "cpu_adam"},
    "2 offload, small groups": {
        "ds_config": zero(2, **OFFLOAD),
        "implementation": "cpu_adam",
        "largest_group": 5000,
    },
    "3": {"ds_config": zero(3)},
    "3 tiny": {"ds_config": zero(3, **TINY)},
    "3 offload torch": {"ds_config": zero(3, **OFFLOAD_ALL), "implementation": "torch"},
    "3 offload cpu_adam": {"ds_config": zero(3, **OFFLOAD_ALL), "implementation": "cpu_adam"},
    "3 offload tiny": {"ds_config": zero(3, **OFFLOAD_ALL, **TINY), "implementation": "cpu_adam"},
}
BF16_MASTERS = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
BF16 = {
    "0": {"ds_config": zero(0)},
    "1": {"ds_config": zero(1)},
    "1 fp32 gradients": {"ds_config": {**zero(1), "data_types": {"grad_accum_dtype": "fp32"}}},
    "2 offload cpu_adam": LAYOUTS["2 offload cpu_adam"],
    "2 offload bf16 masters": {
        "ds_config": {**zero(2, **OFFLOAD), "bf16": {"enabled": True, "bf16_master_weights_and_grads": True}},
        "implementation": "cpu_adam",
        "master_rounding": "nearest",
    },
    **{
        f"{name} offload bf16 masters, {rounding}": {
            "ds_config": {**config, "bf16": BF16_MASTERS},
            "master_rounding": rounding,
        }
        for rounding in ("stochastic", "kahan")
        for name, config in (("2", zero(2, **OFFLOAD)), ("3 tiny", zero(3, **OFFLOAD_ALL, **TINY)))
    },
    "3": {"ds_config": zero(3)},
    "3 offload tiny": LAYOUTS["3 offload tiny"],
}
LAYOUTS |= {f"bf16 {name}": {**layout, "precision": "bf16"} for name, layout in BF16.items()}
LATE_HEADS = {"tasks": LATE, "steps": 6, "grokfast": GROKFAST, "decay": 0.8}
"""With seed 0: paraphrase is used in step 3 and not again, coherence for the first time in step 4."""
MOVES = [
    (1, "0", 1, "2"),
    (1, "2 offload cpu_adam", 1, "0"),
    (1, "2 offload cpu_adam", 2, "2 offload cpu_adam"),
    (1, "2 offload cpu_adam", 2, "3 tiny"),
    (1, "3 offload cpu_adam", 2, "3 offload torch"),
    (2, "3 offload tiny", 1, "3 offload cpu_adam"),
    (2, "3 offload tiny", 2, "2 round robin"),
    (2, "2 round robin", 1, "2 offload torch"),
    (1, "2 offload cpu_adam", 1, "2 offload, small groups"),
    (1, "2 offload, small groups", 1, "2 offload cpu_adam"),
    (1, "2 offload, small groups", 2, "3 tiny"),
]
BF16_MOVES = [
    (1, "bf16 2 offload cpu_adam", 2, "bf16 3"),
    (1, "bf16 2 offload bf16 masters, stochastic", 2, "bf16 3 tiny offload bf16 masters, stochastic"),
    (2, "bf16 3 tiny offload bf16 masters, kahan", 1, "bf16 2 offload bf16 masters, kahan"),
]
WITHOUT_COMPENSATION = (
    *(2, "bf16 3 tiny offload bf16 masters, kahan"),
    *(1, "bf16 2 offload bf16 masters, stochastic"),
)


def reshape(train_cases, moves, **case):
    """moves: (ranks, layout, ranks, layout). Gives for each what the run that saved and the one that restored did."""
    saved, restored = {}, {}
    for ranks, saving in ((1, True), (2, True), (1, False)):
        cases = {}
        for n, layout in dict.fromkeys(move[:2] for move in moves):
            if n == ranks and saving:
                cases[n, layout] = {**case, **LAYOUTS[layout], "name": f"{n} {layout}", "save": True}
        for move in moves:
            before, layout = move[:2], move[3]
            if move[2] == ranks and move not in restored and (before in saved or before in cases):
                origin = saved[before]["directory"] if before in saved else cases[before]["name"]
                cases[move] = {**case, **LAYOUTS[layout], "name": " ".join(map(str, move)), "restore": origin}
        if cases:
            results = train_cases([*cases.values()], ranks)
            for key, one in cases.items():
                (saved if "save" in one else restored)[key] = results[one["name"]]
    return {move: (saved[move[:2]], restored[move]) for move in moves}


def checkpoint_of(result):
    (checkpoint,) = Path(result["directory"]).glob("step-*")
    return checkpoint


def first(value):
    return value[0] if isinstance(value, list) else value


def assert_same_content(one, other, dropped=frozenset()):
    assert one.names == other.names
    assert one.shapes == other.shapes
    for key in ("global_steps", "global_samples", "skipped_steps"):
        assert getattr(one, key) == getattr(other, key), key
    schedules = [{key: first(value) for key, value in files.lr_scheduler.items()} for files in (one, other)]
    assert schedules[0] == schedules[1], "of all groups, of which there may be more or fewer"
    for name in one.names:
        assert torch.equal(one.weight(name), other.weight(name)), name
        state, same = one.state(name), other.state(name)
        assert state.keys() - dropped == same.keys(), name
        assert all(torch.equal(state[key], same[key]) for key in same), name


def assert_goes_on(done, tolerance):
    """The restored engine holds what was saved, to the bit, and its losses are those of the run that was not moved."""
    for move, (saved, restored) in done.items():
        dropped = {"compensation"} if "kahan" in move[1] and "kahan" not in move[3] else set()
        assert_same_content(ZeroFiles(checkpoint_of(saved)), ZeroFiles(checkpoint_of(restored)), dropped)
        assert restored["losses"] == pytest.approx(saved["losses"], abs=tolerance), move


@pytest.fixture(scope="module")
def moved(train_cases):
    return reshape(train_cases, [*MOVES, *BF16_MOVES, WITHOUT_COMPENSATION], **LATE_HEADS)


def test_a_run_goes_on_as_if_it_had_not_been_moved(moved):
    assert_goes_on({move: moved[move] for move in MOVES}, tolerance=5e-6)
    assert_goes_on({move: moved[move] for move in BF16_MOVES}, tolerance=1e-3)


def test_a_compensation_is_dropped_where_masters_are_rounded_stochastically(moved):
    before, after = (ZeroFiles(checkpoint_of(result)) for result in moved[WITHOUT_COMPENSATION])
    for name in before.names:
        assert after.state(name).keys() == before.state(name).keys() - {"compensation"}
        assert torch.equal(after.weight(name), before.weight(name))


def test_a_head_that_no_step_has_used_has_no_state_and_one_that_was_used_keeps_its_own(moved):
    for results in moved.values():
        for files in (ZeroFiles(checkpoint_of(result)) for result in results):
            assert files.state("heads.coherence.output.weight") == {}
            state = files.state("heads.paraphrase.output.weight")
            assert state["step"] == 1
            assert all(state[key].any() for key in ("exp_avg", "exp_avg_sq", "grokfast_ema"))


def test_whole_weights_are_those_of_deepspeeds_own_script(moved):
    checkpoints = {checkpoint_of(result) for move, results in moved.items() for result in results}
    for checkpoint in checkpoints:
        files = ZeroFiles(checkpoint)
        if files.zero_stage:
            expected = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
            assert expected.keys() == set(files.names)
            assert all(torch.equal(files.weight(name), expected[name]) for name in files.names)


def test_files_that_do_not_fit_together_are_named(moved, tmp_path):
    two_ranks = checkpoint_of(moved[1, "2 offload cpu_adam", 2, "2 offload cpu_adam"][1])
    one_rank = checkpoint_of(moved[1, "2 offload cpu_adam", 1, "0"][0])
    shutil.copytree(two_ranks, tmp_path / "step")
    second = tmp_path / "step/zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shutil.copy(one_rank / "zero_pp_rank_0_mp_rank_00_optim_states.pt", second)
    with pytest.raises(UserError, match=r"rank_1_mp_rank_00_optim_states.pt: weight 0 has [\d,]+ elements, "):
        ZeroFiles(tmp_path / "step")
    saved = torch.load(two_ranks / second.name, weights_only=False)
    del saved["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg"]
    torch.save(saved, second)
    with pytest.raises(
        UserError, match=r"rank_1_.*: of base.layers.1.attention.wq.weight the optimizer's state has step, exp"
    ):
        ZeroFiles(tmp_path / "step")
    second.unlink()
    with pytest.raises(UserError, match=r"rank_1_mp_rank_00_optim_states.pt: missing; 2 ranks have saved"):
        ZeroFiles(tmp_path / "step")
    (tmp_path / "step/mp_rank_00_model_states.pt").unlink()
    with pytest.raises(UserError, match=r"step: no checkpoint of DeepSpeed's is there \(neither mp_rank_00_model"):
        ZeroFiles(tmp_path / "step")


def test_a_checkpoint_of_another_model_is_refused_with_the_first_difference(moved):
    files = ZeroFiles(checkpoint_of(moved[MOVES[0]][0]))
    run = run_of(LATE_HEADS)
    model = build_model(run.model, ActivationCheckpointingConfig(), lambda: make_heads(run, ("coherence",)))
    with pytest.raises(UserError, match=r"heads.paraphrase.hidden.weight is \[32, 32\] there and absent in this run"):
        require_same_model(model, files)


@pytest.mark.slow
@pytest.mark.parametrize(("bf16", "steps", "tolerance"), [(False, 40, 1e-5), (True, 6, 2e-2)], ids=["fp32", "bf16"])
def test_every_layout_goes_on_as_every_other(train_cases, bf16, steps, tolerance):
    layouts = [layout for layout in LAYOUTS if layout.startswith("bf16") == bf16]
    moves = [
        ((1, before, 2, after) if (i + j) % 2 else (2, before, 1, after))
        for (i, before), (j, after) in product(enumerate(layouts), repeat=2)
        if before == after or "masters" not in after  # bf16 has no place for all bits of fp32
    ]
    assert_goes_on(reshape(train_cases, moves, steps=steps, decay=0.99), tolerance)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/include/libaio.h").exists(), reason="libaio-dev is not installed")
def test_an_optimizer_on_nvme_is_read_from_its_swap_files(train_cases, tmp_path):
    """Of two sub-groups that share a buffer, DeepSpeed's own file has one twice; small ones are in that file alone."""
    case = {"steps": 6, "model": {"dim": 256, "intermediate_size": 1024}, "implementation": "cpu_adam", "save": True}
    layouts = {device: zero(3, **OFFLOAD_ALL, sub_group_size=500_000) for device in ("cpu", "nvme")}
    layouts["nvme"]["zero_optimization"]["offload_optimizer"] = {"device": "nvme", "nvme_path": str(tmp_path)}
    for ranks in (1, 2):
        results = train_cases([{**case, "name": name, "ds_config": layout} for name, layout in layouts.items()], ranks)
        cpu, nvme = (checkpoint_of(results[device]) for device in layouts)
        assert_same_content(ZeroFiles(cpu), ZeroFiles(nvme))
        swap_file = next(nvme.rglob("exp_avg-*.swp"))
        swap_file.write_bytes(swap_file.read_bytes()[:-4])
        with pytest.raises(UserError, match=r"exp_avg-.*\.tensor\.swp: missing or too short, and [\d,]+ elements"):
            ZeroFiles(nvme)

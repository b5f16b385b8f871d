import ast
import subprocess
import sys
from pathlib import Path

import pytest

import genesis_ds
from genesis_ds.engine.members import MEMBERS, ZERO3, Member, gone

PACKAGE = Path(genesis_ds.__file__).parent
ELSEWHERE = {"compile", "global_samples", "skipped_steps", "destroy", "overflow"}
"""Members whose names other classes of ours have as well."""


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_deepspeed_still_has(member):
    assert gone((member,)) == []


def test_a_member_that_is_gone_is_named_with_what_it_is_needed_for():
    [line] = gone((Member(ZERO3, "grad_positions_of_old", "resuming"),))
    assert "no longer has DeepSpeedZeroOptimizer_Stage3.grad_positions_of_old, needed for resuming" in line


def test_undocumented_members_are_used_in_one_module():
    names = {member.name for member in MEMBERS} - ELSEWHERE
    used = {
        f"{path.relative_to(PACKAGE)}: {node.attr}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "internals.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in names
    }
    calls_of_the_engine_protocol = {
        "engine/engine.py: get_global_grad_norm",
        "engine/engine.py: was_step_applied",
        "engine/step_meter.py: get_global_grad_norm",
        "engine/step_meter.py: was_step_applied",
    }
    assert used == calls_of_the_engine_protocol


def test_deepspeeds_optimizers_are_imported_without_torchs_compiler():
    checked = """if True:
        import sys, torch
        from genesis_ds.engine.internals import import_muon_uncompiled
        import_muon_uncompiled()
        import deepspeed.runtime.zero.stage3, deepspeed.runtime.zero.muon.muon_optimizer
        assert "torch._inductor" not in sys.modules
        assert deepspeed.runtime.compiler.compile() is torch.compile
    """
    subprocess.run([sys.executable, "-c", checked], check=True, timeout=120)

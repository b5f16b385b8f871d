"""Compiled operations: a build that was killed must not stop every later run."""

import shutil
import subprocess
import sys

import pytest
from helpers.forks import run_forked

from genesis_ds.engine.distributed import extensions_directory

BUILD = "from genesis_ds.engine.compiled_ops import build; build('cpu_adam'); print('built', flush=True)"


@pytest.fixture
def build(tmp_path):
    """Build cpu_adam in so many processes that start together, and then run what code follows."""

    def run(code="", processes=1):
        script = tmp_path / "build.py"
        script.write_text(f"{BUILD}\n{code}")
        done = run_forked(script, [], ranks=processes)
        assert done.returncode == 0, done.stdout[-2000:]
        return done.stdout.splitlines()

    return run


def test_a_lock_that_a_killed_build_left_behind_is_removed(build):
    extension = extensions_directory() / "cpu_adam"
    assert extension.exists(), "launch/test.sh builds it before the tests"
    (extension / "lock").touch()
    assert build()[-1:] == ["built"]
    assert not (extension / "lock").exists()


@pytest.mark.slow
def test_a_lock_left_in_a_part_of_an_operation_is_removed_as_well():
    """async_io's builder compiles pin_memory too."""
    build = BUILD.replace("cpu_adam", "async_io")
    pin_memory = extensions_directory() / "pin_memory"
    pin_memory.mkdir(exist_ok=True)
    (pin_memory / "lock").touch()
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, timeout=590, check=False)
    assert done.stdout.splitlines()[-1:] == ["built"] or "libaio-dev" in done.stderr, done.stderr[-2000:]
    assert not (pin_memory / "lock").exists()


def test_processes_that_start_together_do_not_wait_for_each_other_for_ever(build):
    assert build(processes=3).count("built") == 3


def test_what_is_compiled_is_loaded_without_a_compiler_and_is_what_deepspeed_uses(build, tmp_path, monkeypatch):
    build()
    monkeypatch.setenv("PATH", str(tmp_path))
    use = "from deepspeed.ops.op_builder import CPUAdamBuilder; assert CPUAdamBuilder().load().create_adam"
    assert build(use)[-1:] == ["built"]


def test_what_was_compiled_for_another_processor_goes_through_the_build(build, tmp_path, monkeypatch):
    shutil.copytree(extensions_directory() / "cpu_adam", tmp_path / "cpu_adam")
    mark = tmp_path / "cpu_adam" / "compiled_for"
    mark.write_text("another processor")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    build()
    assert mark.read_text() != "another processor"

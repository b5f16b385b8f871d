"""Compiled operations: a build that was killed must not stop every later run."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

from genesis_ds.engine.distributed import extensions_directory

BUILD = "from genesis_ds.engine.compiled_ops import build; build('cpu_adam'); print('built')"


def test_a_lock_that_a_killed_build_left_behind_is_removed():
    extension = extensions_directory() / "cpu_adam"
    assert extension.exists(), "launch/test.sh builds it before the tests"
    (extension / "lock").touch()
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.splitlines()[-1:] == ["built"], done.stderr[-2000:]
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


def test_processes_that_start_together_do_not_wait_for_each_other_for_ever():
    outputs = []

    def start():
        done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, timeout=240, check=False)
        outputs.append(done.stdout.splitlines()[-1:])

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [["built"]] * 3


def test_what_is_compiled_is_loaded_without_a_compiler_and_is_what_deepspeed_uses(tmp_path):
    subprocess.run([sys.executable, "-c", BUILD], check=True, timeout=240)
    use = "from deepspeed.ops.op_builder import CPUAdamBuilder; assert CPUAdamBuilder().load().create_adam"
    without = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", f"{BUILD}; {use}"], capture_output=True, text=True, env=without,
                          timeout=60, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["built"], done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_was_compiled_for_another_processor_goes_through_the_build(tmp_path):
    shutil.copytree(extensions_directory() / "cpu_adam", tmp_path / "cpu_adam")
    mark = tmp_path / "cpu_adam" / "compiled_for"
    mark.write_text("another processor")
    env = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, env=env, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert mark.read_text() != "another processor"

"""`genesis-ds doctor` on one machine: each planted fault is found and named, and the exit code says so."""

import errno
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from genesis_ds.cli import main
from genesis_ds.config.parse import parse_arguments
from genesis_ds.disk import lock
from genesis_ds.hosts import machine, operations, program
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.command import flags
from genesis_ds.hosts.finding import go_through
from genesis_ds.memory.machine.hardware import GIB

SMALL = ["--model.n_layers", "1", "--model.dim", "32", "--model.n_heads", "2", "--model.intermediate_size", "64"]


@pytest.fixture
def found(place):
    """What a check finds of a run: its status, what is said, what mends it."""

    def of(check, *words):
        argv = ["--data.corpus", "corpus", "--data.languages", "[]", *SMALL, *words]
        case = Case(parse_arguments(argv, flags(), "genesis-ds doctor", ""))
        its = list(go_through([check], case))
        return (its[0].status, its[0].said, its[0].mend) if its else None

    return of


def test_the_lock_of_a_killed_build_is_found_and_that_of_one_that_goes_on_is_not(found, place):
    for name in ("cpu_adam", "bf16_adam"):
        (place / "built" / name).mkdir()
        (place / "built" / name / "lock").touch()
    going_on = lock(place / "built/bf16_adam.genesis_ds_lock", wait=False)
    status, said, mend = found(operations.build_lock)
    assert (status, mend) == ("warning", f"rm {place}/built/cpu_adam/lock")
    assert said.startswith("cpu_adam: the lock of a build that was killed")
    going_on.close()
    assert "bf16_adam" in found(operations.build_lock)[1]
    shutil.rmtree(place / "built/cpu_adam")
    shutil.rmtree(place / "built/bf16_adam")
    assert found(operations.build_lock)[0] == "ok"


def test_a_compiler_that_is_missing_fails_where_the_run_needs_it(found, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    needs = ("--ds_config", "ds_configs/zero2_offload.json", "--optimizer.implementation", "cpu_adam")
    assert found(operations.compiler)[::2] == ("warning", "sudo apt-get install g++")
    status, said, _ = found(operations.compiler, *needs)
    assert status == "fails"
    assert "needs DeepSpeedCPUAdam, which cannot be built here" in said


def test_what_is_not_built_is_said_with_the_command_that_builds_it(found):
    needs = ("--ds_config", "ds_configs/zero2_offload.json", "--optimizer.implementation", "cpu_adam")
    assert "genesis-ds build cpu_adam" in found(operations.operations, *needs)[1]
    assert found(operations.operations)[1] == "this run needs none"


def test_libaio_that_is_missing_fails_with_nvme(found, monkeypatch):
    monkeypatch.setattr("genesis_ds.engine.internals.op_builder", lambda name: _Incompatible())
    assert found(operations.libaio)[0] == "ok"
    status, said, mend = found(operations.libaio, "--ds_config", "ds_configs/zero3_nvme.json")
    assert (status, said) == ("fails", "not installed, and NVMe offload needs it")
    assert mend.startswith("sudo apt-get install libaio-dev")


class _Incompatible:
    def is_compatible(self, verbose):
        return False


def test_a_kernel_that_is_wrong_fails_with_its_error(found, monkeypatch):
    assert found(operations.attention)[0] == "ok"
    right = operations.prove_attention

    def wrong(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            attend = sys.modules["genesis_ds.model.attention_proof"].attend
            halved = lambda q, k, v, backend, documents: attend(q, k, v / 2 if q.requires_grad else v, backend)  # noqa: E731
            patch.setattr("genesis_ds.model.attention_proof.attend", halved)
            patch.setattr("genesis_ds.model.attention_proof.sdpa_kernel", _second_is_right(patch, attend))
            return right(*arguments)

    monkeypatch.setattr(operations, "prove_attention", wrong)
    status, said, _ = found(operations.attention)
    assert status == "fails"
    assert "the kernel is wrong" in said


def _second_is_right(patch, attend):
    """In the place of sdpa_kernel: what is computed within it, the reference, is right."""
    from contextlib import contextmanager

    @contextmanager
    def within(kernel):
        patch.setattr("genesis_ds.model.attention_proof.attend", attend)
        yield

    return within


def test_a_corpus_that_is_not_there_fails(found, place):
    assert found(program.data)[0] == "ok"
    shutil.rmtree(place / "corpus")
    status, said, mend = found(program.data)
    assert (status, said) == ("fails", "no corpus at corpus: no such directory")
    assert "genesis-ds corpus fetch" in mend


def test_a_language_that_the_corpus_lacks_fails_and_a_translation_by_name_does_not(found):
    status, said, mend = found(program.data, "--data.languages", "[qaa, es]")
    assert (status, said) == ("fails", "data.languages: the corpus holds no 'es'; valid: qaa, qab, qac")
    assert mend == "[] takes all"
    assert found(program.data, "--data.languages", "[qaa]")[:2] == ("ok", "qaa of 3 languages in corpus")


def test_a_corpus_that_is_damaged_fails(found, place):
    text = next((place / "corpus/verses").glob("*.tsv"))
    text.write_text(text.read_text().replace("a", "b"))
    assert found(program.data)[0] == "fails"


def test_a_run_and_a_ds_config_that_contradict_each_other_fail_once(place):
    (place / "mine.json").write_text('{"gradient_clipping": 0.5, "zero_optimization": {"stage": 2}}')
    argv = ["--ds_config", "mine.json", "--data.corpus", "corpus", *SMALL]
    case = Case(parse_arguments(argv, flags(), "genesis-ds doctor", ""))
    findings = list(go_through((*program.CHECKS, *machine.CHECKS, *operations.CHECKS), case))
    (failed,) = [finding for finding in findings if finding.status == "fails"]
    assert failed.check == "run"
    assert "gradient_clipping" in failed.said


def test_an_output_dir_that_cannot_be_written_or_is_too_small_fails(found, place):
    assert found(machine.disk)[0] == "ok"
    status, said, mend = found(machine.disk, "--checkpoint.keep_last", "100000000")
    assert status == "fails"
    assert "GiB are free" in said
    assert "lower keep_last" in mend
    (place / "file").touch()
    status, said, mend = found(machine.disk, "--output_dir", "file/runs")
    assert status == "fails"
    assert os.strerror(errno.ENOTDIR) in said
    assert mend == "choose another --output_dir"


def test_all_that_a_run_keeps_is_counted_against_the_disk(found, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    big = ("--model.dim", "1024", "--model.n_layers", "12", "--checkpoint.keep_last", "50", "--tasks.lm", "1")

    def needed(*words):
        return float(re.search(r"need ([\d.]+) GiB", found(machine.disk, *big, *words)[1])[1])

    plain = needed("--max_steps", "1000")
    for more in (
        ("--optimizer.weight_average.kind", "ema"),
        ("--checkpoint.milestones", "500"),
        ("--checkpoint.weights_per_decade", "4"),
        ("--tasks.paraphrase", "1"),
    ):
        assert needed("--max_steps", "1000", *more) > plain, more


def test_what_a_run_keeps_by_its_epochs_is_said_not_to_be_counted(found):
    assert "epochs" not in found(machine.disk, "--max_epochs", "3")[1]
    for words in (("--max_epochs", "3", "--checkpoint.milestones", "10"), ("--checkpoint.milestones", "1 epoch")):
        assert found(machine.disk, *words)[1].endswith("what the run keeps by its epochs is counted at its start")


def test_a_clock_that_differs_from_the_file_systems_is_a_warning(found, monkeypatch):
    now = machine.time.time
    monkeypatch.setattr(machine.time, "time", lambda: now() - 100)
    status, said, mend = found(machine.clock)
    assert status == "warning"
    assert said.startswith("this clock is 100 s behind that of ")
    assert "set-ntp" in mend


def test_a_limit_of_locked_memory_is_a_warning_where_the_run_pins_exactly(found, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, hard))
    try:
        assert found(machine.pinned_memory)[0] == "ok"
        monkeypatch.setenv("DS_PIN_MEMORY_BACKEND", "native")
        status, said, mend = found(machine.pinned_memory)
        assert (status, said) == ("warning", "64.00 KiB (ulimit -l), which DeepSpeed's exact pinning needs more of")
        assert mend.startswith("ulimit -l unlimited")
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def test_a_host_whose_memory_others_hold_is_a_warning(found, monkeypatch):
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=real.total // 10))
    assert found(machine.memory)[0] == "warning"


def test_a_run_that_does_not_fit_fails(found):
    status, said, mend = found(machine.memory_plan, "--model.n_layers", "144", "--model.dim", "8192")
    assert status == "fails"
    assert said.endswith("(does not fit)")
    assert mend.startswith("genesis-ds memory")


def test_an_nvidia_card_without_a_driver_is_seen(tmp_path):
    for name, vendor, kind in (("0", "0x8086", "0x030000"), ("1", "0x10de", "0x040300"), ("2", "0x10de", "0x030200")):
        assert not machine.has_nvidia_card(tmp_path)
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert machine.has_nvidia_card(tmp_path)


def test_a_driver_that_does_not_answer_is_named_with_its_reason(found, place, monkeypatch):
    _put_command(place, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    status, said, _ = found(machine.driver)
    assert (status, said) == ("warning", "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch")


def test_torch_that_cannot_use_the_driver_is_named(found, place, monkeypatch):
    _put_command(place, "nvidia-smi", "echo 470.42.01")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, said, _ = found(machine.driver)
    assert status == "warning"
    assert said.startswith("470.42.01")
    assert said.endswith("a run computes on the CPU")


def test_cards_that_others_hold_and_slots_without_cards_are_found(place, monkeypatch):
    free = [(11 * GIB, 12 * GIB), (2 * GIB, 12 * GIB)]
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA GeForce RTX 4070")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: free[index])
    arguments = parse_arguments(["--data.corpus", "corpus"], flags(), "genesis-ds doctor", "")
    of = {n: next(go_through([machine.gpus], Case(arguments, "node-1", {"node-1": n}))) for n in (1, 2, 4)}
    assert of[1].status == "ok"
    assert of[1].said == "NVIDIA GeForce RTX 4070: 11.00 GiB free"
    assert of[2].status == "warning"
    assert of[2].said.endswith("other programs hold up to 9.50 GiB")
    assert (of[4].status, of[4].said) == ("fails", "2 here, and slots=4 in the hostfile")


def test_an_accelerator_that_is_not_here_fails(found, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    status, said, mend = found(machine.gpus)
    assert (status, said) == ("fails", "DS_ACCELERATOR: 'cuda', but torch finds no CUDA device here")
    assert mend == "set it to cpu, or leave it unset"


def _put_command(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_check_that_crashes_fails_and_the_next_one_goes_on(place):
    def crashes(case):
        raise KeyError("what")

    case = Case(parse_arguments(["--data.corpus", "corpus"], flags(), "genesis-ds doctor", ""))
    first, second = go_through([crashes, program.commit], case)
    assert (first.status, first.said) == ("fails", "cannot be found out: KeyError: 'what'")
    assert second.check == "commit"


def test_a_ds_config_that_is_not_there_is_a_mistake(place, capsys):
    assert main(["doctor", "--ds_config", "nowhere.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere.json" in line


def test_the_exit_code_says_whether_a_run_can_start_and_json_stands_alone(place, capsys):
    words = ["doctor", "--json", "--data.languages", "[]", *SMALL, "--ds_config", "ds_configs/zero2.json"]
    words = [*words, "--data.corpus"]
    done = subprocess.run([sys.executable, "-m", "genesis_ds", *words, "corpus"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["can_start"]
    assert said["where"] == socket.gethostname()
    assert main([*words, "nowhere"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["can_start"]
    assert [finding["check"] for finding in said["findings"] if finding["status"] == "fails"] == ["data"]


def test_flash_attn_that_is_missing_is_said_where_it_would_be_used(found, monkeypatch):
    assert found(operations.flash_attention)[1] == "no use on a CPU"
    monkeypatch.setattr(operations, "accelerator", lambda: "cuda")
    monkeypatch.setattr(operations, "flash_attn", lambda: None)
    status, said, _ = found(operations.flash_attention)
    assert status == "ok"
    assert "pip install flash-attn" in said

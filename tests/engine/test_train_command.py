"""launch/train.py as a user starts it: with the deepspeed launcher, python, torchrun, and a hostfile."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import psutil
import pytest
import yaml
from helpers.jobs import ROOT, free_port

from genesis_ds.training.session import train_arguments


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return {record["global_step"]: record["train/loss"] for record in records(run) if "train/loss" in record}


def test_the_deepspeed_command_trains_and_leaves_a_described_run(train_py, tmp_path):
    launcher = ("deepspeed", "--master_port", str(free_port()))
    done = train_py("--ds_config", ROOT / "ds_configs/zero3_offload.json", launcher=launcher)
    assert done.returncode == 0, done.stdout[-4000:]
    run = tmp_path / "runs/quickstart"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["n_layers"], config["model"]["vocab_size"]) == (2, 260)
    assert json.loads((run / "ds_config.json").read_text())["train_batch_size"] == 8
    provenance = json.loads((run / "provenance.jsonl").read_text())
    assert provenance["versions"]["deepspeed"]
    assert len(provenance["fingerprints"]["token_set"]) == 64
    assert list(run.glob("events.out.tfevents.*"))
    assert len(list((tmp_path / "token_sets").glob("*/qa?.lexicon.npz"))) == 3
    last = records(run)[-1]
    assert {"val/val_chapter/qaa/bits_per_byte", "val/val_book/qac/bits_per_byte", "sample/qab"} <= last.keys()
    assert (run / "checkpoints/latest").read_text().strip() == "step-00000004"
    assert "flash for CPU" in done.stdout
    assert "data       qaa, qab, qac: all of " in done.stdout


def test_a_second_start_says_that_the_run_is_complete(train_py, tmp_path):
    assert train_py().returncode == 0
    before = (tmp_path / "runs/quickstart/metrics.jsonl").read_text()
    again = train_py()
    assert again.returncode == 0
    assert "complete: 4 of 4 steps are done" in again.stdout
    assert (tmp_path / "runs/quickstart/metrics.jsonl").read_text() == before


def test_one_and_two_ranks_see_the_same_samples_and_losses(train_py, tmp_path):
    same = ("--max_steps", 6, "--verse_tasks.slot_sequences", 8, "--console", "full")
    assert train_py("--name", "one", *same).returncode == 0
    two_ranks = train_py("--name", "two", *same, launcher=("torchrun", "--standalone", "--nproc_per_node=2"))
    assert two_ranks.returncode == 0, two_ranks.stdout[-4000:]
    one, two = (records(tmp_path / "runs" / name) for name in ("one", "two"))
    assert [r["train/loss"] for r in two] == pytest.approx([r["train/loss"] for r in one], abs=1e-4)
    for name in (name for name in one[-1] if name.startswith("val/")):
        assert two[-1][name] == pytest.approx(one[-1][name], abs=1e-3)
    trajectory = {name: value for name, value in one[-1].items() if name.startswith("trajectory/")}
    assert len(trajectory) == 5 + 2 * 2
    assert {name: two[-1][name] for name in trajectory} == pytest.approx(trajectory, rel=1e-3)
    assert "logit rms" in two_ranks.stdout


def test_a_run_goes_on_with_more_ranks_and_another_zero_stage(train_py, tmp_path):
    whole = ("--max_steps", 8, "--checkpoint.every", 4)
    assert train_py("--name", "whole", *whole, "--ds_config", ROOT / "ds_configs/zero2_offload.json").returncode == 0
    checkpoint = tmp_path / "runs/whole/checkpoints/step-00000004"
    moved = ("--name", "moved", "--resume", checkpoint, "--ds_config", ROOT / "ds_configs/zero3_offload.json")
    done = train_py(*whole, *moved, ranks=2)
    assert done.returncode == 0, done.stdout[-4000:]
    expected = {step: loss for step, loss in losses(tmp_path / "runs/whole").items() if step > 4}
    assert losses(tmp_path / "runs/moved") == pytest.approx(expected, abs=1e-5)
    assert "checkpoint changed since it was saved: ZeRO stage 2, now 3\n" in done.stdout


def test_a_run_that_goes_on_with_bf16_masters_says_so(train_py):
    shipped = ("--precision", "bf16", "--ds_config")
    assert train_py("--max_steps", 2, *shipped, ROOT / "ds_configs/zero2_offload.json").returncode == 0
    done = train_py("--max_steps", 3, *shipped, ROOT / "ds_configs/zero2_offload_bf16.json")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "changed since it was saved: master weights fp32, now bf16; max_steps 2, now 3\n" in done.stdout


def test_a_run_resumed_in_a_fresh_process_repeats_the_uninterrupted_one_bit_for_bit(train_py, tmp_path):
    arguments = ("--ds_config", ROOT / "ds_configs/zero2_offload.json", "--optimizer.implementation", "cpu_adam")
    whole = ("--max_steps", 8, "--checkpoint.every", 4, *arguments)
    assert train_py("--name", "whole", *whole).returncode == 0
    checkpoint = tmp_path / "runs/whole/checkpoints/step-00000004"
    resume = ("--name", "resumed", "--resume", checkpoint, "--init_from", "nowhere")
    done = train_py(*resume, *whole, launcher=("python",))
    assert done.returncode == 0, done.stdout[-4000:]
    expected = {step: loss for step, loss in losses(tmp_path / "runs/whole").items() if step > 4}
    assert len(expected) == 4
    assert losses(tmp_path / "runs/resumed") == expected
    assert "checkpoint changed since it was saved: init_from None, now nowhere\n" in done.stdout


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_command_and_leaves_the_curves_of_an_uninterrupted_one(train_py, tmp_path):
    """Reports and checkpoints fall on different steps; the kill comes between a checkpoint and the end."""
    arguments = ("--max_steps", 200, "--log_every", 40, "--checkpoint.every", 60)
    assert train_py("--name", "whole", *arguments).returncode == 0
    fresh = {"launcher": ("python",)}
    victim = threading.Thread(target=train_py, args=("--name", "killed", *arguments), kwargs=fresh)
    victim.start()
    latest = tmp_path / "runs/killed/checkpoints/latest"
    deadline = time.monotonic() + 120
    while not latest.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    kill_trainer(tmp_path)
    victim.join()
    assert not (tmp_path / "runs/killed/checkpoints/step-00000200").exists(), "the kill came too late"
    resumed = train_py("--name", "killed", *arguments)
    assert resumed.returncode == 0, resumed.stdout[-4000:]
    assert "resumed" in resumed.stdout
    whole, killed = ({r["global_step"]: r for r in records(tmp_path / "runs" / name)} for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert losses(tmp_path / "runs/killed") == losses(tmp_path / "runs/whole")
    assert len(records(tmp_path / "runs/killed")) == len(killed)
    steps = [event.step for event in scalars(tmp_path / "runs/killed", "train/loss")]
    assert steps == sorted(set(steps))


def kill_trainer(run_root):
    """SIGKILL to the one launch/train.py that works in this folder."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "--name" in command and "killed" in command and str(run_root / "runs") in command:
            process.kill()


def scalars(directory, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return events.Scalars(tag)


def test_a_hostfile_with_two_nodes_trains_one_run(train_py, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    port, done = str(free_port()), [None, None]

    def node(rank):
        launcher = ("deepspeed", "--hostfile", str(hostfile), "--no_ssh", "--node_rank", str(rank))
        done[rank] = train_py(launcher=(*launcher, "--master_addr", "127.0.0.1", "--master_port", port))

    threads = [threading.Thread(target=node, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in done] == [0, 0], done[0].stdout[-4000:]
    assert "cpu x 2" in done[0].stdout
    assert "step 4/4" not in done[1].stdout
    assert (tmp_path / "runs/quickstart/checkpoints/latest").exists()


def test_print_config_shows_the_resolved_whole_and_trains_nothing(tmp_path):
    command = [
        sys.executable,
        "launch/train.py",
        "--print_config",
        "--model.n_layers",
        "80",
        "--output_dir",
        str(tmp_path),
    ]
    printed = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=True)
    run = yaml.safe_load(printed.stdout)
    assert (run["model"]["n_layers"], run["model"]["dim"]) == (80, 96)
    comments = [line.removeprefix("# ") for line in printed.stdout.splitlines() if line.startswith("# ")]
    resolved = yaml.safe_load("\n".join(comments[1:]))
    assert resolved["optimizer"]["params"]["lr"] == run["optimizer"]["lr"]
    assert not list(tmp_path.iterdir())
    (tmp_path / "my.yaml").write_text(printed.stdout, encoding="utf-8")
    assert asdict(train_arguments(["--config", str(tmp_path / "my.yaml")]).run) == run

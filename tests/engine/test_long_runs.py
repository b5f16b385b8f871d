"""Ten thousand epochs, and what decides how long a run is."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from genesis_ds.config.durations import log_spaced
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus

EPOCHS = 10_000
ROOT_FILES = {"config.yaml", "ds_config.json", "provenance.jsonl", "metrics.jsonl", "log.txt", "checkpoints"}


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_ten_thousand_epochs_stay_small_in_memory_on_disk_and_in_files(train_py, tmp_path):
    """One step an epoch: 1,500 bytes of text, one layer of width 16."""
    save_corpus(synthetic_corpus(chapters_per_book=1, verses_per_chapter=1), tmp_path / "corpus")
    shape = ("--model.n_layers", 1, "--model.dim", 16, "--model.intermediate_size", 32, "--tasks.lm", 1)
    batch = ("--batch.seq_len", 64, "--batch.global_batch_size", 24, "--batch.micro_batch_size", 24)
    rare = ("--evaluation.per_decade", 32, "--evaluation.every", "200 epochs", "--log_every", "100 epochs")
    saved = ("--checkpoint.every", "1000 epochs", "--checkpoint.weights_per_decade", 8)
    done = train_py(
        *("--data.corpus", tmp_path / "corpus", "--data.languages", "[qaa]", "--max_epochs", EPOCHS),
        *("--ds_config", "ds_configs/zero2.json", "--optimizer.lr", 1e-3),
        *(*shape, *batch, *rare, *saved),
        launcher=("python",),
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    run = tmp_path / "runs/quickstart"
    rows = records(run)
    assert rows[-1]["train/epoch"] >= EPOCHS
    assert (run / "metrics.jsonl").stat().st_size < 1_000_000
    events = {path.name for path in run.glob("events.out.tfevents.*")}
    assert len(events) == 1
    assert {path.name for path in run.iterdir()} - events == ROOT_FILES
    checkpoints = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    n_steps = rows[-1]["global_step"]
    weights = sorted((run / "checkpoints/weights").iterdir())
    assert len(weights) == sum(log_spaced(step, 8) for step in range(1, n_steps)) + 1
    memory = [row["memory/host_peak_gib"] for row in rows if "memory/host_peak_gib" in row]
    assert memory[-1] < memory[len(memory) // 4] * 1.02
    assert rows[-1]["val/train_subset/qaa/bits_per_byte"] < rows[0]["val/train_subset/qaa/bits_per_byte"] / 2


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_files_of_the_weights_alone_hold_what_was_trained(train_py, tmp_path, stage):
    config = f"ds_configs/zero{stage}_offload.json"
    done = train_py("--ds_config", config, "--checkpoint.weights_per_decade", 4, ranks=2)
    assert done.returncode == 0, done.stdout[-4000:]
    folder = tmp_path / "runs/quickstart/checkpoints/weights"
    files = {int(path.stem.removeprefix("step-")): load_file(path) for path in folder.iterdir()}
    assert sorted(files) == [1, 2, 4]
    assert files[4]["base.layers.1.attention.wq.weight"].shape == (32, 32)
    for name, first in files[1].items():
        assert first.shape == files[4][name].shape
        assert np.abs(files[4][name] - first).max() > 0 or "heads" in name, name


def test_a_run_out_of_time_ends_with_a_checkpoint_and_says_so_at_the_next_start(train_py, tmp_path):
    limited = ("--max_steps", 10**6, "--max_hours", 10 / 3600, "--log_every", 1000)
    done = train_py(*limited)
    assert done.returncode == 0, done.stdout[-4000:]
    last = records(tmp_path / "runs/quickstart")[-1]
    assert 0 < last["global_step"] < 10**6
    assert "val/val_chapter/qaa/bits_per_byte" in last
    assert "trajectory/weight_norm" in last, "the last step is known before its update"
    checkpoint = (tmp_path / "runs/quickstart/checkpoints/latest").read_text().strip()
    assert checkpoint == f"step-{last['global_step']:08d}"
    again = train_py(*limited)
    assert f"complete: {last['global_step']} of 1000000 steps are done, and the 0.00 hours" in again.stdout

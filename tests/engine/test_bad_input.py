"""A mistake in a training command is one line, exit code 2, and nothing is written or lost."""

import json

import pytest
from helpers.jobs import ROOT


@pytest.fixture
def finished_run(train_py, tmp_path):
    assert train_py().returncode == 0
    return tmp_path / "runs/quickstart"


def complaint(done):
    assert done.returncode == 2, done.stdout[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    return line


def test_before_anything_is_built(train_py, tmp_path):
    typo = tmp_path / "typo.json"
    typo.write_text(json.dumps({"zero_optimization": {"stage": 3, "reduce_bucket": 5}}))
    contradiction = tmp_path / "contradiction.json"
    contradiction.write_text(json.dumps({"train_batch_size": 64, "zero_optimization": {"stage": 2}}))
    cases = [
        (("--ds_config", typo), ["typo.json", "zero_optimization.reduce_bucket", "reduce_bucket_size"]),
        (
            ("--ds_config", contradiction),
            ["contradiction.json", "train_batch_size = 64", "batch.global_batch_size = 8"],
        ),
        (("--batch.micro_batch_size", 3), ["batch.global_batch_size = 8", "1, 2, 4, 8"]),
        (("--data.corpus", tmp_path / "absent"), ["absent"]),
        (("--data.languages", "[en]"), ["data.languages", "'en'", "qaa"]),
        (("--model.vocab_size", 100), ["model.vocab_size: 100", "260"]),
        (("--model.preset", "frontier_2b", "--checkpoint.keep_last", 10**9), ["checkpoint.keep_last", "are free"]),
        (("--resume", tmp_path / "absent"), ["absent", "no checkpoint is there"]),
        (("--data.token_sets", typo / "inside"), ["inside", "Not a directory"]),
        (
            ("--batch.micro_batch_size", 400000, "--batch.global_batch_size", 400000),
            ["does not fit this machine", "batch.micro_batch_size 5000:", "--memory.enforce false"],
        ),
    ]
    for arguments, words in cases:
        line = complaint(train_py(*arguments))
        assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_a_run_is_neither_overwritten_nor_continued_with_another_shape_data_or_batch(train_py, finished_run):
    before = (finished_run / "metrics.jsonl").read_bytes()
    assert "holds a run" in complaint(train_py("--resume", "never"))
    cases = [("--model.dim", 64, "model.dim 32"), ("--data.split_seed", 1, "data"), ("--batch.seq_len", 32, "batch")]
    for flag, value, word in cases:
        line = complaint(train_py("--max_steps", 8, flag, value))
        assert "step-00000004" in line
        assert word in line
    assert (finished_run / "metrics.jsonl").read_bytes() == before


def test_every_rank_stops_when_the_first_one_finds_a_mistake(train_py, tmp_path):
    done = train_py("--data.corpus", tmp_path / "absent", ranks=2, timeout=120)
    assert done.returncode == 2, done.stdout[-2000:]
    assert done.stdout.count("error: ") == 1


def test_a_mistake_of_another_rank_is_said_once_with_where_it_is(train_py, tmp_path):
    script = tmp_path / "one_host_has_another_file.py"
    script.write_text(
        "import os, runpy, sys\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.argv += ['--config', '/nowhere.yaml']\n"
        f"runpy.run_path({str(ROOT / 'launch/train.py')!r}, run_name='__main__')\n"
    )
    done = train_py(ranks=2, script=script)
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stdout[-2000:]
    assert "--config: /nowhere.yaml: No such file" in errors[0]
    assert "(rank 1, on " in errors[0]
    assert not (tmp_path / "runs").exists()

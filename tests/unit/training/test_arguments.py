from pathlib import Path

import pytest

from genesis_ds.errors import UserError
from genesis_ds.presets import PRESETS
from genesis_ds.training.run import train_arguments

RUNS = sorted((Path(__file__).parents[3] / "launch/runs").glob("*.yaml"))
ARITHMETIC = Path(__file__).parents[3] / "launch/runs/modular_addition.yaml"


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: mine\nmodel:\n  preset: deep_50m\n  n_heads: 12\noptimizer:\n  lr: 2.0e-4\n")
    return path


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_run_parses_and_is_named_after_its_file(path):
    run = train_arguments(["--config", str(path)]).run
    assert run.name == path.stem
    assert run.model.preset in PRESETS or run.arithmetic.modulus


def test_a_run_of_arithmetic_needs_no_word_about_text():
    run = train_arguments(["--config", str(ARITHMETIC), "--arithmetic.modulus", "31"]).run
    assert (run.arithmetic.modulus, run.batch.seq_len, run.tasks.trained, run.tasks.heads) == (31, 3, ("lm",), ())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arithmetic.modulus", "1"], "arithmetic.modulus: 1 is not allowed; give a whole number of 2 or more"),
        (["--arithmetic.train_share", "1"], "arithmetic.train_share: 1.0 is not allowed; give a share between 0 and 1"),
        (["--arithmetic.operation", "divide"], "arithmetic.operation: 'divide' is not a valid value"),
        (["--data.corpus", "x"], "arithmetic.modulus: 97 makes this a run without text; leave out data.corpus"),
        (["--tokenizer.kind", "bpe", "--tokenizer.path", "x"], "a run without text; leave out tokenizer.kind"),
        (["--alignment.every", "7"], "a run without text; leave out alignment.every"),
        (["--tasks.coherence", "0.1"], "a run without text, whose only task is lm; leave out tasks"),
        (["--batch.seq_len", "2"], "a run without text, of 3 tokens; leave out batch.seq_len 2"),
    ],
)
def test_what_does_not_go_with_arithmetic_is_one_line(flags, message):
    with pytest.raises(UserError) as caught:
        train_arguments(["--config", str(ARITHMETIC), *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_arguments_it_is_the_quickstart_under_zero3_offload():
    arguments = train_arguments([])
    assert arguments.run.name == "quickstart"
    assert Path(arguments.ds_config_file).name == "zero3_offload.json"


def test_flags_override_the_yaml_which_overrides_the_preset(run_file):
    run = train_arguments(["--config", str(run_file), "--optimizer.lr", "1e-3", "--model.n_layers=80"]).run
    assert (run.model.dim, run.model.n_heads, run.model.n_layers) == (384, 12, 80)
    assert (run.optimizer.lr, run.name) == (1e-3, "mine")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.n_layer", "3"], "unknown argument --model.n_layer; did you mean '--model.n_layers'?"),
        (["--dsconfig", "x"], "unknown argument --dsconfig; did you mean '--ds_config'?"),
        (["--model.n_layers", "many"], "model.n_layers: 'many' is not a valid value; give int"),
        (
            ["--model.preset", "frontier_3b"],
            "model.preset: no shape is named 'frontier_3b'; did you mean 'frontier_2b'?",
        ),
        (["--model.n_heads", "5"], "model.n_heads: 5 does not divide model.dim 384 into even head widths; valid"),
        (["--model.n_kv_heads", "5"], "model.n_kv_heads: 5 does not divide model.n_heads 12; valid: 1, 2, 3, 4, 6, 12"),
        (["--batch.seq_len", "9999"], "batch.seq_len: 9999 is longer than model.max_seq_len 4096"),
        (["--optimizer.lr", "0"], "optimizer.lr: 0.0 is not allowed; give a positive number"),
        (["--optimizer.grokfast.alpha", "1"], "optimizer.grokfast.alpha: 1.0 is not allowed; give a number in [0, 1)"),
        (["--arithmetic.train_share", "0.5"], "arithmetic.train_share: needs arithmetic.modulus as well"),
        (["--tokenizer.kind", "bpe"], "tokenizer.path: kind 'bpe' needs the path of a trained model"),
        (
            ["--activation_checkpointing.offload", "true"],
            "activation_checkpointing.offload: true needs mode 'block' or",
        ),
        (["--config", "absent.yaml"], "--config: cannot read absent.yaml (No such file or directory)"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_allowed(run_file, flags, message):
    with pytest.raises(UserError) as caught:
        train_arguments(["--config", str(run_file), *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  n_layer: 3\n", "run.yaml: unknown key 'model.n_layer'; did you mean 'n_layers'?"),
        ("max_step: 3\n", "run.yaml: unknown key 'max_step'; did you mean 'max_steps'?"),
        ("model: 3\n", "run.yaml: model is a section of keys, not 3"),
        ("model: [\n", "run.yaml: not valid YAML"),
        ("- 3\n", "run.yaml: a run is a mapping of keys to values, this is a list"),
    ],
)
def test_a_wrong_yaml_is_one_line_that_names_the_file(run_file, text, message):
    run_file.write_text(text)
    with pytest.raises(UserError) as caught:
        train_arguments(["--config", str(run_file)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

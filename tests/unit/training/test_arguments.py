from pathlib import Path

import pytest

from genesis_ds.config.presets import PRESETS
from genesis_ds.errors import UserError
from genesis_ds.training.session import train_arguments

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
    assert (run.arithmetic.modulus, run.batch.seq_len, run.tasks) == (31, 3, {"lm": 1.0})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arithmetic.modulus", "1"], "arithmetic.modulus: 1 is not allowed; give a whole number from 2 to 10,000"),
        (
            ["--arithmetic.train_share", "1"],
            "arithmetic.train_share: 1.0 is not allowed; give a share above 0 and below 1",
        ),
        (["--arithmetic.operation", "power"], "arithmetic.operation: 'power' is not a valid value"),
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


def test_a_flag_takes_away_what_the_yaml_says(run_file):
    run_file.write_text("max_hours: 2\nmax_epochs: 5\nmodel: {n_kv_heads: 2}\n")
    flags = ["--max_hours", "null", "--model.n_kv_heads", "null"]
    run = train_arguments(["--config", str(run_file), *flags]).run
    assert (run.max_hours, run.model.n_kv_heads, run.max_epochs) == (None, None, 5)


def test_a_list_is_given_as_one_text_too(run_file):
    run_file.write_text("data:\n  languages: en, es\ndistill:\n  teacher: ~/runs/a,b\n")
    run = train_arguments(["--config", str(run_file), "--samples.languages", "ko"]).run
    assert (run.data.languages, run.samples.languages) == (["en", "es"], ["ko"])
    assert run.distill.teacher == [str(Path.home() / "runs/a,b")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.languages", "en,,es"], "data.languages: 'en,,es' is not a valid value; give a list, such"),
        (["--data.languages", "[1, 2]"], "data.languages: '[1, 2]' is not a valid value; give a list, such"),
        (["--distill", "runs/a"], "--distill: is a section; give a flag of its fields, --distill.FIELD VALUE"),
        (
            ["--optimizer.weight_average", "{kind: emma}"],
            "optimizer.weight_average.kind: 'emma' is not a valid value; give 'none' or 'ema' or 'swa'",
        ),
        (
            ["--optimizer.weight_average", "{kind: ema, decay: .nan}"],
            "--optimizer.weight_average: .nan is not a finite number; give one that is",
        ),
        (
            ["--optimizer.weight_average", "{kind: swa, strat: 5}"],
            "unknown argument --optimizer.weight_average.strat; did you mean '--optimizer.weight_average.start'?",
        ),
        (["--model.n_layer", "3"], "unknown argument --model.n_layer; did you mean '--model.n_layers'?"),
        (["--dsconfig", "x"], "unknown argument --dsconfig; did you mean '--ds_config'?"),
        (["--model.n_layers", "many"], "model.n_layers: 'many' is not a valid value; give a whole number"),
        (
            ["--model.preset", "frontier_3b"],
            "model.preset: no shape is named 'frontier_3b'; did you mean 'frontier_2b'?",
        ),
        (
            ["--model.dim", "33"],
            "model.dim: 33 is not allowed; give an even number, as heads have even widths",
        ),
        (["--model.n_heads", "5"], "model.n_heads: 5 does not divide model.dim 384 into even head widths; valid"),
        (["--model.n_kv_heads", "5"], "model.n_kv_heads: 5 does not divide model.n_heads 12; valid: 1, 2, 3, 4, 6, 12"),
        (["--batch.seq_len", "9999"], "batch.seq_len: 9999 is longer than model.max_seq_len 4096"),
        (["--optimizer.lr", "0"], "optimizer.lr: 0.0 is not allowed; give a positive number"),
        (["--optimizer.grokfast.alpha", "1"], "optimizer.grokfast.alpha: 1.0 is not allowed; give a number in [0, 1)"),
        (["--optimizer.weight_average.decay", "0.99"], "decay: needs optimizer.weight_average.kind as well; give that"),
        (
            ["--optimizer.weight_average.kind", "swa", "--optimizer.weight_average.decay", "0.99"],
            "optimizer.weight_average.decay: is of kind ema, and kind is swa; leave it out",
        ),
        (
            ["--schedule.weight_decay_end_ratio", "2", "--optimizer.weight_decay", "0"],
            "schedule.weight_decay_end_ratio: needs a weight decay; give optimizer.weight_decay, or leave it out",
        ),
        (["--arithmetic.train_share", "0.5"], "arithmetic.train_share: needs arithmetic.modulus as well"),
        (["--tokenizer.kind", "bpe"], "tokenizer.path: kind 'bpe' needs the path of a trained model"),
        (
            ["--activation_checkpointing.offload", "true"],
            "activation_checkpointing.offload: true needs mode 'block' or",
        ),
        (["--config", "absent.yaml"], "--config: absent.yaml: No such file or directory; see launch/runs/"),
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
        ("model:\n  n_layer: 3\n", "run.yaml: line 2: unknown key 'model.n_layer'; did you mean 'n_layers'?"),
        ("max_step: 3\n", "run.yaml: line 1: unknown key 'max_step'; did you mean 'max_steps'?"),
        ("model: 3\n", "run.yaml: line 1: model is a section of keys, not 3"),
        ("model: [\n", "run.yaml: line 2: not valid YAML"),
        ("- 3\n", "run.yaml: must hold lines of `key: value`, and holds a list"),
        ("optimizer:\n  lr: 1.0e-4\nbatch:\n  seq_len: 128\noptimizer:\n  weight_decay: 0.5\n", "lines 1 and 5"),
        ("data:\n  corpus:\n", "line 2: 'corpus' has no value"),
        ("seed: null\n", "line 1: seed cannot be null"),
        ("max_hours: 2:30\n", "line 1: max_hours: '2:30' is not a valid value; give a number or null"),
        ("memory:\n  enforce: no\n", "line 2: memory.enforce: 'no' is not a valid value; give true or false"),
        ("name: 2024\n", "line 1: name: '2024' is not a valid value; give text, in quotes"),
        ("optimizer:\n  lr: -1\n", "line 2: optimizer.lr: -1.0 is not allowed"),
        ('name: "a\\nb"\n', r"line 1: name: a\nb is not allowed; give a plain directory name"),
        ("data:\n  corpus: ''\n", "line 2: data.corpus: the path is empty"),
    ],
)
def test_what_is_wrong_in_a_yaml_is_one_line_with_the_file_and_its_line(run_file, text, message):
    run_file.write_text(text)
    with pytest.raises(UserError) as caught:
        train_arguments(["--config", str(run_file)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        ("--config", ""),
        ("--ds_config", ""),
        ("--output_dir", ""),
        ("--output_dir", "a\0b"),
        ("--max_hours", "2:30"),
        ("--optimizer.lr", "9" * 400),
        ("--optimizer.lr", "1e400"),
        ("--max_steps", "9" * 5000),
        ("--optimizer.betas", f"[0, {'9' * 400}]"),
        ("--clustering.concepts", "[" * 5000),
        ("--connectives.words", "{no: [og], no: [men]}"),
        ("--name", "a\x1bb"),
        ("--name", "x" * 300),
    ],
    ids=lambda flags: f"{flags[0]} {flags[1][:8]!r}",
)
def test_flags_are_read_as_files_are(flags):
    with pytest.raises(UserError) as caught:
        train_arguments([*flags])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_norwegian_and_decimal_numbers_need_no_quotes(run_file):
    run_file.write_text("max_steps: 0100\nconnectives:\n  words:\n    no: [og, men]\ndata:\n  languages: [no]\n")
    for flags in ([], ["--max_steps", "0100", "--data.languages", "[no]"]):
        run = train_arguments(["--config", str(run_file), *flags]).run
        assert (run.max_steps, run.data.languages, run.connectives.words) == (100, ["no"], {"no": ["og", "men"]})


def test_every_path_of_a_run_knows_the_home_directory(monkeypatch, run_file):
    monkeypatch.setenv("HOME", "/home/me")
    run_file.write_text("output_dir: ~/runs\ntokenizer: {kind: bpe, path: ~/t.model}\nclustering: {topics: ~/t.tsv}\n")
    flags = ("--data.corpus=~/c", "--data.token_sets=~/s", "--init_from=~/i", "--data.cross_references=~/x")
    run = train_arguments(["--config", str(run_file), *flags, "--resume=~/r"]).run
    found = (run.output_dir, run.tokenizer.path, run.clustering.topics, run.data.corpus, run.data.token_sets)
    found += (run.init_from, run.data.cross_references, run.resume)
    assert all(path.startswith("/home/me/") for path in found), found


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("model.n_layers", 10**9, "2,000 at most"),
        ("model.dim", 10**9, "1,048,576 at most"),
        ("model.vocab_size", 10**9, "16,777,216 at most"),
        ("batch.global_batch_size", 10**12, "1,048,576 at most"),
        ("max_steps", 10**13, "1,000,000,000,000 at most"),
        ("log_every", 10**20, "1,000,000,000,000 at most"),
        ("evaluation.every", f"{'9' * 400} epochs", "1,000,000,000,000 at most"),
        ("evaluation.per_decade", 10**9, "10,000 at most"),
        ("checkpoint.weights_per_decade", 10**9, "10,000 at most"),
        ("checkpoint.keep_last", 10**20, "1,000,000,000,000 at most"),
        ("max_epochs", 10**20, "1,000,000,000 at most"),
        ("seed", 10**20, "less than 64 bits"),
    ],
)
def test_a_number_that_would_be_counted_through_has_a_limit(flag, value, message):
    with pytest.raises(UserError, match=f"{flag}: .* is not allowed; give .*{message}"):
        train_arguments([f"--{flag}", str(value)])


def test_a_run_of_a_million_million_steps_is_one():
    assert train_arguments(["--max_steps", str(10**12), "--max_hours", "2"]).run.max_steps == 10**12
    assert train_arguments(["--model.n_layers", "2000"]).run.model.n_layers == 2000

"""TOML files of the earlier Genesis Arbiter code, each with what it becomes."""

import contextlib
import shutil
from pathlib import Path

import pytest

from genesis_ds.cli import main
from genesis_ds.config.convert.conversion import convert
from genesis_ds.config.convert.earlier_toml import EarlierToml, Key, read_toml
from genesis_ds.config.convert.rules import RULES, quoted
from genesis_ds.errors import UserError
from genesis_ds.training.session import train_arguments

TOML = Path(__file__).parents[1] / "data/legacy_toml"
MODEL = "[model]\nn_layers = 2\ndim = 64\nn_heads = 4\nintermediate_size = 128\n"
SETS = ["--set", "LAYERS=24", "--set", "DIM=384", "--set", "LR=3e-4"]


def converted(tmp_path, text, given=()):
    (tmp_path / "given.toml").write_text(text)
    return convert(read_toml(str(tmp_path / "given.toml"), given), "mine")


def outcome(conversion, key):
    return str(next(row.outcome for row in conversion.rows if row.key == key))


@pytest.fixture
def by_command(tmp_path, capsys):
    """Name of a fixture, flags -> exit code, what was printed, and the run of the YAML."""

    def run(name, *flags):
        output = tmp_path / "run.yaml"
        exit_code = main(["config", "convert", str(TOML / name), "--output", str(output), *flags])
        made = train_arguments(["--config", str(output)]).run if output.exists() else None
        return exit_code, capsys.readouterr().out, made

    return run


def test_the_first_trainers_file(by_command):
    exit_code, shown, run = by_command("first.toml")
    assert exit_code == 0
    assert (run.model.n_layers, run.model.dim, run.model.n_heads, run.model.intermediate_size) == (14, 320, 5, 1280)
    assert (run.batch.global_batch_size, run.batch.micro_batch_size, run.batch.seq_len) == (30, 6, 512)
    assert (run.model.vocab_size, run.tokenizer.kind, run.model.tie_embeddings) == (8000, "bpe", False)
    assert (run.max_steps, run.optimizer.lr, run.optimizer.gradient_clipping) == (7000, 4e-4, 0.8)
    assert (run.schedule.kind, run.schedule.warmup_steps, run.schedule.min_lr_ratio) == ("cosine", 350, 0.2)
    assert (run.checkpoint.every, run.evaluation.every, run.log_every) == (700, 350, 25)
    assert (run.activation_checkpointing.mode, run.compile.when, run.precision) == ("block", "gpu", "auto")
    assert [line.split()[0] for line in shown.splitlines() if "no counterpart:" in line] == ["model.name"]
    assert "nothing to do" in next(line for line in shown.splitlines() if line.startswith("parallelism.fsdp"))


def test_the_newest_trainers_file(by_command):
    exit_code, shown, run = by_command("global.toml")
    assert exit_code == 0
    assert (run.model.n_layers, run.model.dim, run.model.n_heads, run.model.intermediate_size) == (18, 224, 7, 896)
    assert (run.tokenizer.kind, run.model.tie_embeddings, run.batch.global_batch_size) == ("bytes", True, 8)
    assert (run.masking.kind, run.masking.share, run.masking.start) == ("word", 0.12, 400)
    assert (run.data.languages, run.data.corpus, run.tasks) == (["en", "ko"], "corpora/earlier", {"lm": 1.0})
    flags = "--top_k 30 --top_p 0.85 --repetition_penalty 1.1 --stop $'\\n\\n'"
    assert f"genesis-ds generate runs/run --device cpu --max_new_tokens 120 --temperature 0.6 {flags}" in shown
    assert "genesis-ds corpus import ../Texts --output corpora/earlier" in shown
    assert "not 16: the trainer there updated the weights after each" in " ".join(shown.split())
    lost = {line.split()[0].partition(".")[2] for line in shown.splitlines() if "no counterpart:" in line}
    span = {"span_trigger_steps", "span_mask_prob", "span_min_len", "span_max_len"}
    assert lost == {"plateau_lr_drop", "plateau_lr_patience", "precision", *span}


def test_a_template_is_refused_without_its_values_and_converted_with_them(by_command, capsys):
    assert by_command("template.toml")[0] == 2
    assert main(["config", "convert", str(TOML / "template.toml"), "--set", "DIM=384"]) == 2
    assert "LAYERS (line 2), LR (line 10); give --set LAYERS=... --set LR=..." in capsys.readouterr().err
    exit_code, _, run = by_command("template.toml", *SETS)
    assert (exit_code, run.model.n_layers, run.model.dim, run.optimizer.lr) == (0, 24, 384, 3e-4)
    assert (run.max_steps, run.batch.seq_len, run.batch.global_batch_size) == (50000, 512, 4)


@pytest.mark.parametrize(("name", "flags"), [("first.toml", []), ("global.toml", []), ("template.toml", SETS)])
def test_every_key_has_a_row_and_the_run_is_planned(tmp_path, name, flags, capsys):
    toml = read_toml(str(TOML / name), flags[1::2])
    assert [row.key for row in convert(toml, "x").rows if row.value is not None] == [key.dotted for key in toml.keys]
    output = str(tmp_path / "run.yaml")
    assert main(["config", "convert", str(TOML / name), "--output", output, *flags]) == 0
    assert main(["memory", "--config", output, "--hardware", "rtx4070", "--ds_config", "ds_configs/zero2.json"]) == 0
    assert "verdict    fits" in capsys.readouterr().out


def test_strict_writes_nothing_where_something_is_lost(by_command):
    exit_code, shown, run = by_command("first.toml", "--strict")
    assert (exit_code, run) == (1, None)
    assert "1 key has no counterpart; with --strict" in shown
    assert by_command("template.toml", "--strict", *SETS)[0] == 0


def test_the_yaml_says_what_has_no_counterpart_and_is_written_again_but_over_nothing_else(tmp_path, by_command, capsys):
    by_command("first.toml")
    written = (tmp_path / "run.yaml").read_text()
    assert "# model.name = 'genesis': no counterpart: " in written
    assert "# training.gradient_accumulation_steps = 5: batch.micro_batch_size: 6, " in written
    assert by_command("first.toml")[0] == 0
    (tmp_path / "run.yaml").write_text("name: mine\n")
    assert by_command("first.toml")[0] == 2
    assert (tmp_path / "run.yaml").read_text() == "name: mine\n"


def test_a_mode_is_converted_by_its_shape_and_what_the_model_table_says_overrides_it(tmp_path):
    model = converted(tmp_path, '[training]\nmode = "microscope"\n[model]\nn_layers = 10').run.model
    assert (model.n_layers, model.dim, model.n_heads, model.intermediate_size) == (10, 288, 12, 768)
    with pytest.raises(UserError, match=r"line 2: training.mode: .*'huge' is not known here .*; write n_layers, dim"):
        converted(tmp_path, '[training]\nmode = "huge"')
    assert converted(tmp_path, f'[training]\nmode = "huge"\n{MODEL}').run.model.n_layers == 2


def test_of_two_tables_the_later_one_counts_as_there(tmp_path):
    conversion = converted(tmp_path, f"{MODEL}[data]\nseed = 3\n[training]\nseed = 1\nsteps = 5\nmax_steps = 7\n")
    assert (conversion.run.seed, conversion.run.max_steps) == (3, 7)
    assert outcome(conversion, "training.seed") == "nothing to do: data.seed counts"
    conversion = converted(tmp_path, f"{MODEL}max_seq_len = 512\n[data]\nmax_seq_len = 256\n")
    assert (conversion.run.batch.seq_len, conversion.run.model.max_seq_len) == (512, 512)
    conversion = converted(tmp_path, f"{MODEL}max_seq_len = 512\n[training]\nmax_seq_len = 256\nseq_len = 128\n")
    assert (conversion.run.batch.seq_len, conversion.run.model.max_seq_len) == (128, 512)
    conversion = converted(tmp_path, f"{MODEL}[training]\nsave_interval = 5\n[checkpoint]\ninterval = 6\n")
    assert outcome(conversion, "checkpoint.interval").endswith(
        "checkpoint.every is 5 already, by training.save_interval"
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('lr_schedule = "plateau"', {"kind": "plateau", "factor": 0.4, "patience": 2}),
        ('lr_schedule = "constant"', {"kind": "plateau", "factor": 0.4, "patience": 2}),
        ('lr_schedule = "cosine"', {"kind": "cosine", "factor": 0.5, "patience": 10}),
        ("", {"kind": "cosine", "factor": 0.5, "patience": 10}),
    ],
)
def test_a_plateau_falls_by_evaluations_where_the_schedule_is_no_cosine(tmp_path, lines, expected):
    keys = "plateau_lr_drop = 0.4\nplateau_lr_patience = 800\nval_interval = 450\n"
    conversion = converted(tmp_path, f"{MODEL}[training]\n{keys}{lines}\n")
    assert {key: getattr(conversion.run.schedule, key) for key in expected} == expected
    assert len(conversion.lost) == (2 if expected["kind"] == "cosine" else 0)


def test_masks_of_spans_alone_and_of_the_masking_table(tmp_path):
    spans = "span_trigger_steps = 9\nspan_mask_prob = 0.2\nspan_ramp_steps = 4\nspan_window = 3\n"
    masking = converted(tmp_path, f"{MODEL}[training]\n{spans}").run.masking
    assert (masking.kind, masking.share, masking.start, masking.ramp) == ("span", 0.2, 9, 4)
    table = '[masking]\nenabled = {}\nstrategy = "whole_word"\nbase_probability = 0.3\n'
    assert converted(tmp_path, MODEL + table.format("true")).run.masking.share == 0.3
    assert not converted(tmp_path, MODEL + table.format("false")).run.masking.is_on


def test_tasks_have_our_names(tmp_path):
    for table in ("[tasks]\nlm = 0.7\ncross_ref = 0.3\n", "[tasks]\nweights = {lm = 0.7, cross_ref = 0.3}\n"):
        assert converted(tmp_path, MODEL + table).run.tasks == {"lm": 0.7, "cross_reference": 0.3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\n\ndim = = 5\n", r"given.toml: line 3: not valid TOML: "),
        ("[model]\ndim = 5\ndim = 6\n", r"line 3: not valid TOML: Cannot overwrite"),
        ("", r"has no key of the earlier Genesis Arbiter code"),
        ("[tool]\nname = 1\n", r"has no key of the earlier Genesis Arbiter code"),
        ("[training]\nlearning_rate = 'high'\n", r"line 2: as a run here: optimizer.lr: 'high' is not a valid value"),
        ("[training]\nlearning_rate = inf\n", r"line 2: as a run here: optimizer.lr: inf is not a finite number"),
        ("[model]\nn_heads = 7\n", r"line 2: as a run here: model.n_heads: 7 does not divide model.dim 512"),
        (
            "[training]\nbatch_size = '8'\ngrad_accum_steps = 2\n",
            r"line 2: training.batch_size: '8' is no whole",
        ),
        ("[parallelism]\nfsdp = true\n", r"\[model\] does not say n_layers, dim, n_heads, intermediate_size"),
        ("a = " + "[" * 5000, r"given.toml: "),
        ("[model]\ndim = {{DIM}}\n", r"placeholders have no value: DIM \(line 2\); give --set DIM=..."),
    ],
)
def test_a_mistake_is_said_in_a_line_with_its_place(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        converted(tmp_path, text)


def test_a_value_for_no_placeholder_is_refused_and_a_comment_has_none(tmp_path):
    with pytest.raises(UserError, match=r"no placeholder {{DIMS}}; did you mean 'DIM'\?"):
        converted(tmp_path, "[model]\ndim = {{DIM}}\n", ["DIM=64", "DIMS=64"])
    with pytest.raises(UserError, match=r"--set: 'DIM' is no NAME=VALUE"):
        converted(tmp_path, MODEL, ["DIM"])
    assert converted(tmp_path, f"# dim = {{{{DIM}}}}\n{MODEL}").run.model.dim == 64


def test_an_unknown_key_is_named_with_the_nearest_and_an_unknown_table_too(tmp_path):
    conversion = converted(tmp_path, f"top = 1\n[trainin]\nlr = 1\n{MODEL}[training]\nlearning_rte = 1\n")
    assert outcome(conversion, "training.learning_rte").endswith("unknown key; did you mean 'learning_rate'?")
    assert outcome(conversion, "trainin.lr").endswith("unknown table; did you mean 'training'?")
    assert "unknown key outside of a table" in outcome(conversion, "top")
    assert len(conversion.lost) == 3


@pytest.mark.parametrize("value", [True, False, 2, 0.5, "word", ["a"]], ids=str)
def test_every_rule_answers_any_value(value):
    for table, rules in RULES.items():
        for name, rule in rules.items():
            key = Key(table, name, value)
            with contextlib.suppress(UserError):
                assert str(rule(key, EarlierToml("given.toml", [key], {})))


@pytest.mark.parametrize(
    ("word", "expected"), [("a b", "'a b'"), ("\n\t'", "$'\\n\\t\\''"), ("\u2028é", "$'\\u2028é'")]
)
def test_a_stop_is_quoted_for_a_shell(word, expected):
    assert quoted(word) == expected


def test_a_toml_as_config_is_answered_with_the_command(tmp_path, capsys):
    shutil.copy(TOML / "first.toml", tmp_path / "my run.toml")
    assert main(["memory", "--config", str(tmp_path / "my run.toml")]) == 2
    assert "run.toml' --output 'my run.yaml'" in capsys.readouterr().err


def test_a_converted_yaml_that_was_edited_stays(tmp_path, capsys):
    output = tmp_path / "run.yaml"
    command = ["config", "convert", str(TOML / "first.toml"), "--output", str(output)]
    assert [main(command), main(command)] == [0, 0]
    edited = output.read_text() + "seed: 7\n"
    output.write_text(edited)
    assert main(command) == 2
    assert "exists and holds another run, or this one edited" in capsys.readouterr().err
    assert output.read_text() == edited


def test_a_size_that_cannot_be_is_told_with_the_key_that_was_not_read(tmp_path):
    with pytest.raises(UserError, match=r"n_heads.*perhaps why: model.dimm \(unknown key; did you mean 'dim'"):
        converted(tmp_path, MODEL.replace("dim", "dimm", 1).replace("n_heads = 4", "n_heads = 7"))

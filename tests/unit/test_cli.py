import dataclasses
import os
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from genesis_ds.cli import main, parser_of
from genesis_ds.commands.text import SEQ_LEN
from genesis_ds.config import BatchConfig
from genesis_ds.config.parser import arranged
from genesis_ds.config.presets import PRESETS
from genesis_ds.data.run_data import prepare_data
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.training.session import train_arguments


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpora") / "synthetic"
    assert main(["corpus", "synthetic", "--output", str(path)]) == 0
    return path


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from genesis_ds.cli import main\n"
        "for words in ([], ['--help'], ['corpus'], ['--version']): main(words)\n"
        "print([m for m in ('torch', 'deepspeed', 'numpy', 'scipy', 'sentencepiece') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "corpus synthetic" in out
    assert out.splitlines()[-1] == "[]"


def test_corpus_inspect_shows_verses_tokens_and_split(corpus, capsys):
    assert main(["corpus", "inspect", str(corpus)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("qaa", "qab", "qac", "1,920", "val_chapter", "val_book"))


def test_a_recipe_trains_a_tokenizer_that_inspect_reads(corpus, tmp_path, capsys):
    recipe, output = tmp_path / "small.yaml", tmp_path / "small.model"
    plan = {
        "name": "small",
        "languages": ["qaa", "qac"],
        "corpus": str(corpus),
        "vocab_size": 320,
        "output": str(output),
    }
    recipe.write_text(yaml.safe_dump(plan))
    assert main(["tokenizer", "train", str(recipe)]) == 0
    assert main(["tokenizer", "inspect", "--path", str(output), "--corpus", str(corpus), "--text", "ბაგე"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("vocabulary   320") == 2
    languages = {line.split()[0] for line in shown.splitlines() if line.startswith("qa")}
    assert languages == {"qaa", "qab", "qac"}


def test_import_reads_what_a_user_has(tmp_path, capsys):
    lines = tmp_path / "mine.txt"
    lines.write_text("Genesis 1:1 First light.\nGenesis 1:2 Second light.\n")
    assert main(["corpus", "import", str(lines), "--language", "en", "--output", str(tmp_path / "mine")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["mine", "en", "2"] in [line.split()[:3] for line in lines]
    assert "GEN 1:1 in 1 of 1 translations:" in lines
    assert lines[-1] == f"train on it: genesis-ds train --data.corpus {tmp_path / 'mine'} --batch.seq_len 27"
    run = train_arguments(shlex.split(lines[-1])[5:]).run
    data = prepare_data(dataclasses.replace(run, data=dataclasses.replace(run.data, token_sets=str(tmp_path / "sets"))))
    assert data.languages == f"en: all of {tmp_path / 'mine'}"
    assert LanguageModelling(data.token_set, run.batch.seq_len, seed=0).sequences_per_epoch == 1


def test_what_cannot_be_trained_on_gets_no_command(tmp_path, capsys):
    lines = tmp_path / "ruth.txt"
    lines.write_text("Ruth 1:1 Now it came to pass.\n")
    assert main(["corpus", "import", str(lines), "--language", "en", "--output", str(tmp_path / "ruth")]) == 0
    shown = capsys.readouterr().out
    assert "notice: en: only in validation, so judged and not trained on" in shown
    assert shown.splitlines()[-1].startswith("it has no training text")


def test_inspect_counts_windows_of_the_length_of_a_run(corpus, capsys):
    assert BatchConfig().seq_len == SEQ_LEN
    assert main(["corpus", "inspect", str(corpus), "--seq_len", "1000000"]) == 0
    assert "no window of 1000000 tokens in training, so lm does not learn from it" in capsys.readouterr().out
    assert main(["corpus", "inspect", str(corpus), "--seq_len", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: seq_len: 0")


def test_presets_lists_every_shape_with_its_size(capsys):
    assert main(["presets"]) == 0
    rows = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert PRESETS.keys() <= rows.keys()
    assert rows["frontier_1b"] == "1,028,465,664"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus", "ftch"], "no command is named 'corpus ftch'; did you mean 'fetch'?"),
        (["tran"], "no command is named 'tran'; did you mean 'train'?"),
        (["--verison"], "no command is named '--verison'; valid: bench, build"),
        (["corpus", "fetch", "--language", "en"], "unknown argument --language; did you mean '--languages'?"),
        (["corpus", "fetch", "--languages", "niv"], "translation 'niv' is not offered"),
        (["corpus", "inspect", "absent"], "no corpus at absent: no such directory"),
        (["corpus", "import", "absent"], "absent does not exist: give a directory of"),
        (["tokenizer", "train", "absent.yaml"], "absent.yaml: No such file or directory"),
        (["tokenizer", "inspect", "--path", "absent.model"], "tokenizer model absent.model: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_a_command_whose_reader_is_gone_ends_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "genesis_ds", "presets"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


WORKING = """
import time
from genesis_ds.corpus import synthetic
synthetic.synthetic_corpus = lambda *_, **__: print("ready", flush=True) or time.sleep(60)
"""
LOADING = """
import time
class Slow:
    def find_spec(self, name, *_):
        if name == "genesis_ds.cli":
            print("ready", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("moment", [LOADING, WORKING])
def test_an_interrupted_command_says_so_in_one_line_and_leaves_nothing(tmp_path, moment):
    code = f"import sys; from genesis_ds.__main__ import main\n{moment}sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "corpus", "synthetic", "--output", str(tmp_path / "corpus")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b"interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("output", "message"), [("/dev/full", "No space left on device"), (None, "")])
def test_output_that_nobody_takes_is_no_traceback(output, message):
    command = f"{sys.executable} -m genesis_ds presets {'>&-' if output is None else '>' + output}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == ((2, 1) if message else (0, 0)), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("arguments", [["grokking", "CURVES", "--plot"], ["memory", "--hardware", "h100", "--plot"]])
def test_a_picture_takes_the_place_of_a_picture_alone(tmp_path, arguments, capsys):
    (tmp_path / "curves.csv").write_text("step,train_loss,val_loss\n1,2.0,3.0\n2,1.0,2.5\n")
    (tmp_path / "mine.png").write_text("my notes")
    os.mkfifo(tmp_path / "pipe.png")
    arguments = [word.replace("CURVES", str(tmp_path / "curves.csv")) for word in arguments]
    for name in ("mine.png", "pipe.png"):
        assert main([*arguments, str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err
    assert (tmp_path / "mine.png").read_text() == "my notes"
    for _ in range(2):
        assert main([*arguments, str(tmp_path / "new.png")]) != 2


def test_a_flag_alone_is_true_whatever_word_follows():
    parser = parser_of("checkpoint export")
    given = parser.parse_args(arranged(parser, ["--trust", "run", "out", "--dtype", "bf16"]))
    assert (given.trust, given.source, given.output, given.dtype) == (True, "run", "out", "bf16")
    assert parser.parse_args(arranged(parser, ["run", "out", "--trust", "false"])).trust is False

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from genesis_ds.cli import main
from genesis_ds.presets import PRESETS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpora") / "synthetic"
    assert main(["corpus", "synthetic", "--output", str(path)]) == 0
    return path


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from genesis_ds.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'deepspeed', 'numpy', 'scipy', 'sentencepiece') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "corpus" in out
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
    assert "qab" in shown


def test_import_reads_what_a_user_has(tmp_path, capsys):
    lines = tmp_path / "mine.txt"
    lines.write_text("Genesis 1:1 First light.\nGenesis 1:2 Second light.\n")
    assert main(["corpus", "import", str(lines), "--language", "en", "--output", str(tmp_path / "mine")]) == 0
    assert "en" in capsys.readouterr().out


def test_presets_lists_every_shape_with_its_size(capsys):
    assert main(["presets"]) == 0
    rows = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert PRESETS.keys() <= rows.keys()
    assert rows["frontier_1b"] == "1,028,465,664"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus", "ftch"], "invalid choice: 'ftch'"),
        (["corpus", "fetch", "--language", "en"], "unknown argument --language; did you mean '--languages'?"),
        (["corpus", "fetch", "--languages", "niv"], "niv"),
        (["corpus", "inspect", "absent"], "absent"),
        (["corpus", "import", "absent"], "absent"),
        (["tokenizer", "train", "absent.yaml"], "absent.yaml: No such file or directory"),
        (["tokenizer", "inspect", "--path", "absent.model"], "absent.model"),
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
    command = [sys.executable, "-m", "genesis_ds.cli", "presets"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_an_interrupted_command_says_so_in_one_line_and_leaves_nothing(tmp_path):
    code = "import sys; from genesis_ds import cli; print('ready', flush=True); sys.exit(cli.main(sys.argv[1:]))"
    os.mkfifo(tmp_path / "texts.txt")  # which nobody writes
    paths = [str(tmp_path / "texts.txt"), "--output", str(tmp_path / "corpus"), "--language", "en"]
    command = [sys.executable, "-c", code, "corpus", "import", *paths]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    time.sleep(1.0)  # on a slower machine it is interrupted earlier, with the same end
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b"interrupted\n"
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]

"""`genesis-ds generate` and `genesis-ds score`, as a person uses them."""

import io
import json
import sys

import pytest
import torch

from genesis_ds.cli import main
from genesis_ds.tokenizer import load_tokenizer

GREEDY = ["--temperature", "0", "--max_new_tokens", "12"]


@pytest.fixture
def typed(monkeypatch):
    """Bytes -> the standard input."""

    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return give


@pytest.fixture
def greedy(loaded):
    """A prompt -> what the model writes after it, with GREEDY."""
    return lambda prompt: loaded.generate(prompt, temperature=0, max_new_tokens=12)[0].text


def test_a_prompt_is_continued_from_a_word_or_the_standard_input(exported, greedy, typed, capsys):
    assert main(["generate", str(exported), "--prompt", "태초에", *GREEDY]) == 0
    printed = capsys.readouterr()
    typed("태초에\n".encode())
    assert main(["generate", str(exported), "--prompt", "-", "--json", *GREEDY]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == [{"text": greedy("태초에"), "finish": "length", "n_tokens": 12}]
    assert printed.out.startswith("태초에")
    assert printed.err.startswith(f"{exported}: context 32 tokens of bytes, seed ")


def test_lines_are_continued_one_by_one_until_the_input_ends(exported, greedy, typed, capsys):
    typed(b"In the\n\nbeginning\n")
    assert main(["generate", str(exported), "--interactive", "--json", *GREEDY]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["prompt"], each["samples"][0]["text"]) for each in found] == [
        (prompt, greedy(prompt)) for prompt in ("In the", "beginning")
    ]


def test_a_line_that_is_no_text_is_a_line_and_the_next_is_read(exported, typed, capsys):
    typed(b"a\xffb\nbeginning\n")
    assert main(["generate", str(exported), "--interactive", *GREEDY]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[1:] == ["error: prompt: a\\udcffb: byte 1 is no UTF-8 text; mend it"]
    assert printed.out.startswith("beginning")


def test_a_seed_gives_the_same_samples_again_and_the_one_that_was_used_is_told(exported, capsys):
    drawn = []
    for seed in ([], ["--seed", "SEED"]):
        words = [word.replace("SEED", str(drawn[0]["seed"])) if drawn else word for word in seed]
        arguments = ["--prompt", "In", "--json", "--n", "3", "--top_k", "9", "--top_p", "0.9", *words]
        assert main(["generate", str(exported), *arguments, "--repetition_penalty", "1.2"]) == 0
        drawn.append(json.loads(capsys.readouterr().out))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]["samples"]) == 3


def test_several_samples_are_told_apart_and_probabilities_are_shown(exported, capsys):
    of_four = ["--prompt", "In", "--show_probs", "--max_new_tokens", "4", "--seed", "1"]
    assert main(["generate", str(exported), *of_four, "--n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("---")] == [
        f"--- sample {number} of 2, 4 tokens, length" for number in (1, 2)
    ]
    assert sum(line.startswith("token ") for line in lines) == 2
    assert main(["generate", str(exported), *of_four, "--json"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert [sorted(token) for token in sample["tokens"]] == [["id", "likeliest", "probability", "token"]] * 4


def test_a_token_is_its_text_in_json_or_its_bytes_where_they_are_no_text(exported, monkeypatch, capsys):
    script = iter([*load_tokenizer("bytes").encode("'태"), 3])
    monkeypatch.setattr("genesis_ds.inference.generation.draw", lambda *_: torch.tensor([[next(script)]]))
    assert main(["generate", str(exported), "--prompt", "In", "--show_probs", "--json"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert [token["token"] for token in sample["tokens"]] == ["'", [0xED], [0x83], [0x9C], ""]


def test_what_a_terminal_would_obey_is_shown_as_an_escape(exported, monkeypatch, capsys):
    monkeypatch.setattr("genesis_ds.tokenizer.bytes.ByteTokenizer.decode_bytes", lambda *_: b"\x1b[2J\n")
    assert main(["generate", str(exported), "--prompt", "In", "--max_new_tokens", "1"]) == 0
    assert capsys.readouterr().out == "In\\x1b[2J\n\n"


def test_texts_files_and_pairs_are_scored(exported, tmp_path, typed, capsys):
    (tmp_path / "mine.txt").write_text("first\nsecond\n")
    (tmp_path / "pairs.tsv").write_text("abc\txyz\n")
    typed(b"of the input\n")
    assert main(["score", str(exported), "--file", str(tmp_path / "mine.txt"), "-"]) == 0
    shown = capsys.readouterr().out
    assert ", -: 3 lines" in shown
    assert "mine.txt line 2" in shown
    assert main(["score", str(exported), "--pairs", str(tmp_path / "pairs.tsv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 1
    assert main(["score", str(exported), "--text", "one", "two: 2"]) == 0
    assert "worst texts" in capsys.readouterr().out
    assert main(["score", str(exported), "--text", "one", "--worst", "0"]) == 0
    assert "\nall " in capsys.readouterr().out


def test_a_run_is_scored_on_its_own_corpus_with_no_flag(run_directory, capsys):
    assert main(["score", str(run_directory), "--languages", "qaa", "qac", "--max_windows", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:1] not in (" ", "")][2:5] == ["all", "qaa", "qac"]
    assert {"worst books", "worst verses"} < set(lines)


def test_several_models_stand_side_by_side(exported, make_export, corpus, capsys):
    other = make_export(seed=1)
    arguments = ["--corpus", str(corpus), "--split", "val_book", "--max_windows", "2", "--ensemble"]
    assert main(["score", str(exported), str(other), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "less the first" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(" ") and ":" not in line][1:3] == [
        *("model_1", "ensemble")
    ]


MISTAKES = {
    "generate": [
        ([], "prompt: give --prompt TEXT, --prompt - for the standard input, or --interactive"),
        (["--prompt", ""], "prompt: give --prompt TEXT, --prompt - for the standard input, or --interactive"),
        (["--prompt", "a\udcff"], "prompt: a\\udcff: byte 1 is no UTF-8 text"),
        (["--prompt", "a", "--top_p", "2"], "top_p: 2.0 is not allowed; give a number above 0, at most 1"),
        (["--prompt", "a", "--temperature", "-1"], "temperature: -1.0 is not allowed; give a number from 0 to 1,000"),
        (["--prompt", "a", "--stop", ""], "stop: [''] is not allowed; give a list of strings that are not empty"),
        (["--prompt", "a", "--checkpoint", "best"], "checkpoint: best, but MODEL is no run with checkpoints"),
        (["--prompt", "a", "--tokenizer", "absent.model"], "tokenizer model absent.model: no such file"),
        (["--prompt", "-"], "prompt: the standard input is no UTF-8 text (byte 1)"),
    ],
    "score": [
        (["--text", ""], "text: text 1 is empty; leave it out"),
        (["--file", "EMPTY"], "file: EMPTY holds no text; give one that does"),
        (["--file", "absent.txt"], "file: absent.txt: No such file or directory"),
        (["--pairs", "NO_TAB"], "NO_TAB: line 1: a pair is `better<TAB>worse`"),
        (["--split", "val"], "split: 'val' is not a valid value; give 'val_chapter' or 'val_book' or 'train_subset'"),
        (["--text", "a", "--corpus", "x"], "score: give --text and --file, or --pairs, or --corpus"),
        (["--text", "a", "--ensemble"], "ensemble: it is of several models; give two or more"),
        (["--text", "a", "--worst", "-1"], "worst: -1 is not allowed; give zero or more"),
    ],
}


@pytest.mark.parametrize(
    ("command", "arguments", "message"), [(name, *given) for name, cases in MISTAKES.items() for given in cases]
)
def test_a_mistake_is_said_in_one_line(exported, tmp_path, typed, capsys, command, arguments, message):
    files = {"MODEL": exported, "EMPTY": tmp_path / "empty.txt", "NO_TAB": tmp_path / "no_tab.tsv"}
    files["EMPTY"].touch()
    files["NO_TAB"].write_text("better worse\n")
    typed(b"a\xffb")
    assert main([command, str(exported), *(str(files.get(word, word)) for word in arguments)]) == 2
    printed = capsys.readouterr()
    for name, path in files.items():
        message = message.replace(name, str(path))
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    for command in (["generate", "--prompt", "a"], ["score", "--text", "a"]):
        assert main([command[0], str(tmp_path / "absent"), *command[1:]]) == 2
        assert capsys.readouterr().err.count("\n") == 1

"""Files that people write: read as people mean them, or refused in one line that names the place."""

import os

import pytest
import yaml

from genesis_ds.errors import UserError
from genesis_ds.user_files import LARGEST_FILE, dump_yaml, expanded, load_json, load_yaml, read_text


@pytest.fixture
def written(tmp_path):
    def write(content, name="my.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:30", "2:30"),
        ("0100", 100),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~/runs", "~/runs"),
        ("1e-3", 1e-3),
        ("1e12", 10**12),
        ("1_000", 1000),
        (".5", 0.5),
        ("2024-01-01", "2024-01-01"),
        ("0x10", 16),
        ("'1'", "1"),
        ("1.2.3", "1.2.3"),
        ('""', ""),
    ],
)
def test_a_plain_value_is_what_people_mean(written, text, value):
    found = load_yaml(written(f"key: {text}\n")).values["key"]
    assert (found, type(found)) == (value, type(value))


def test_keys_are_text_and_know_their_line(written):
    found = load_yaml(written("words:\n  no: [og, men]\n  1: [a]\n"))
    assert found.values == {"words": {"no": ["og", "men"], "1": ["a"]}}
    assert found.lines == {"words": 1, "words.no": 2, "words.1": 3}


@pytest.mark.parametrize("content", ["\ufeffname: x\r\n", "# a comment\nname: x", "---\nname: x\n", "name: x\r"])
def test_marks_and_line_ends_of_any_system_are_read(written, content):
    assert load_yaml(written(content)).values == {"name": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: 1\nbatch:\n  x: 1\nlr: 2\n", "line 4: 'lr' stands twice, lines 1 and 4"),
        ("a: {b: 1, b: 2}", "line 1: 'b' stands twice, lines 1 and 1"),
        ("data:\n  corpus:\n", "line 2: 'corpus' has no value"),
        ("model:\n", "line 1: 'model' has no value"),
        ("a:\n- 1\n-\n", "line 3: an entry has no value"),
        ("a: .nan\n", "line 1: a: .nan is not a finite number"),
        ("a: {b: 1, c: {d: -.inf}}\n", "line 1: a.c.d: -.inf is not a finite number"),
        ("a:\n  - 1\n  - 1e400\n", "line 3: a: 1e400 is not a finite number"),
        (f"a: {'9' * 5000}\n", "has more than 30 digits"),
        ("a: !!python/object/apply:os.system [x]\n", "line 1: tags (!) are not read"),
        ("a: !mine x\n", "line 1: tags (!) are not read"),
        ("a: &x [1]\nb: [*x, *x]\n", "line 1: anchors and aliases (& and *) are not read"),
        ("a: *x\n", "line 1: anchors and aliases"),
        ("a: " + "[" * 5000, "more than 100 levels deep"),
        ("- " * 5000, "more than 100 levels deep"),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML: expected a single document"),
        ("? [a]\n: 1\n", "line 1: a key must be plain text"),
        ("a:\n\tb: 1\n", "line 2: not valid YAML"),
        ("a: \x01\n", "not valid YAML: unacceptable character #x0001"),
        ("[1]", "must hold lines of `key: value`, and holds a list"),
        (b"a: caf\xe9\n", "not UTF-8 text (byte 6)"),
        (b"#" * (LARGEST_FILE + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_what_is_not_read_is_one_line_with_the_file(written, content, message):
    path = written(content)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["absent.yaml", ".", "", "nul\0", "~nobody-of-this-name/x", "x" * 5000])
def test_a_path_that_cannot_be_read_is_named_with_its_flag(path):
    with pytest.raises(UserError, match=r"^--config: ") as caught:
        read_text(path, "--config")
    assert "\n" not in str(caught.value)


def test_what_may_have_no_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(UserError, match="is no file; give the path of one"):
            read_text(path)


def test_a_tilde_is_the_home_directory_and_nothing_else_changes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [expanded(path) for path in ("~", "~/runs", "./~", "runs/~x")] == [
        "/home/me",
        "/home/me/runs",
        "./~",
        "runs/~x",
    ]


VALUES = ["no", "2:30", "0100", "1e-3", "1e12", "1_000", "0o17", "null", "~", "", "a: b", "그리고", "x\ny", "\x1b"]


@pytest.mark.parametrize("reader", [load_yaml, lambda path: yaml.safe_load(path.read_text(encoding="utf-8"))])
def test_what_is_written_is_read_again_here_and_elsewhere(written, reader):
    shared = [1.5, 1e-5, 10**12, True, None, *VALUES]
    data = {"texts": {value or "empty": value for value in VALUES}, "one": shared, "two": shared}
    found = reader(written(dump_yaml(data)))
    assert getattr(found, "values", found) == data if reader is load_yaml else found == data


def test_json_with_an_escaped_quote_or_brackets_in_a_text_is_no_deep_or_repeated_one(written):
    text = '{"a\\"b": "{[' + "[" * 200 + '", "c": {"a\\"b": 1}, "d": ["c", "c"]}'
    assert load_json(written(text))["d"] == ["c", "c"]

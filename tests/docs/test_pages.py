"""What the pages say is so: commands parse, files, flags, keys and names in the code exist, links lead somewhere.

In a page a span such as `batch.seq_len`, `--resume`, `ds_configs/zero2.json` or `Trainer.step` is looked up, and so is
each name in "`training/trainer.py`: `Trainer`, `step`". A command and a YAML stand in a block of their own kind.
"""

import contextlib
import dataclasses
import importlib
import io
import itertools
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from genesis_ds.cli import COMMANDS, OF_A_RUN, main, parser_of
from genesis_ds.config import RunConfig
from genesis_ds.ds_config.schema import TOP
from genesis_ds.engine.ranks import Ranks
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.session import train_arguments

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "tokenizers/README.md"]
PAGES += sorted(ROOT.glob("docs/*.md"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
FOLDERS = ("genesis_ds", "ds_configs", "docs", "launch", "tests", "tokenizers")
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
SOURCES = {path: path.read_text(encoding="utf-8") for path in FILES if path.suffix in (".py", ".sh")}
CODE = "\n".join(SOURCES.values())
ELSEWHERE = {"ruff", "mypy", "pip", "git", "sudo", ".", "cd", "mkdir", "docker", "tensorboard", "lm_eval"}
"""Commands that are not ours."""
MADE = {
    "launch/hostfile",
    "tokenizers/bpe_8k/tokenizer.model",
    "tokenizers/char/tokenizer.model",
    "tests/gpu/results/CARD.json",
}
"""Files that a user makes."""

by_page = pytest.mark.parametrize("page", TEXTS)


def _commands() -> dict[str, list[str]]:
    """Every command of a block, without what is set before it: "page: words" -> words."""
    found = {}
    for page, text in TEXTS.items():
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in filter(str.strip, block.splitlines()):
                words = shlex.split(line, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    found[f"{page}: {' '.join(words)}"] = words
    return found


ALL = _commands()
STARTS = re.compile(r"(launch/train\.py|genesis[-_]ds train)( |$)")
TRAIN = {line: words for line, words in ALL.items() if STARTS.search(" ".join(words))}
PLANS = {line: words for line, words in ALL.items() if words[:2] == ["genesis-ds", "memory"]}
MEMORY = {line: words for line, words in PLANS.items() if "--table" not in words}
OTHERS = {line: words for line, words in ALL.items() if line not in TRAIN and words[0] not in ELSEWHERE}


def _spans(text: str) -> list[str]:
    """The spans of a page that are no message, which may name what is wrong."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [span for span in spans if "; " not in span]


@cache
def _headings(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _exists(path: str) -> bool:
    """Whether a file is there, from the root, in the package, beside the examples, or as the name of one anywhere."""
    folders = (ROOT, ROOT / "genesis_ds", ROOT / "tests/docs/examples")
    return any((folder / path).exists() for folder in folders) or any(file.name == path for file in FILES)


def _is_field(dotted: str, cls: type = RunConfig) -> bool:
    """Whether a run has the key; keys of a mapping are the user's."""
    name, _, rest = dotted.partition(".")
    field = {field.name: field for field in dataclasses.fields(cls)}.get(name)
    if field is None or not rest:
        return field is not None
    section = field.default_factory
    if section is dict:
        return True
    return isinstance(section, type) and dataclasses.is_dataclass(section) and _is_field(rest, section)


def _is_ds_key(dotted: str, table: Mapping = TOP) -> bool:
    name, _, rest = dotted.partition(".")
    return name in table and (not rest or _is_ds_key(rest, table[name].keys or {}))


def _is_flag(flag: str) -> bool:
    """Whether a run has the field, a command has the flag, or a program of ours says it in its source."""
    name = flag.removeprefix("--")
    return _is_field(name) or f'"{flag}"' in CODE or flag in _flags_of_commands()


@cache
def _flags_of_commands() -> set[str]:
    return {flag for name in COMMANDS.keys() - OF_A_RUN for flag in parser_of(name)._flags()}


def _is_module(dotted: str) -> bool:
    """Whether something of the package can be imported by its dotted name."""
    module, _, name = dotted.rpartition(".")
    try:
        return importlib.import_module(dotted) is not None
    except ModuleNotFoundError:
        return bool(module) and _is_module(module) and hasattr(importlib.import_module(module), name)


def _is_member(class_name: str, name: str) -> bool:
    return any(f"class {class_name}" in source and re.search(rf"\b{name}\b", source) for source in SOURCES.values())


def _is_false(span: str) -> bool:
    """Whether a span names something of ours that is not there."""
    word = span.split()[0].split("|")[0].rstrip("(:,")
    if re.fullmatch(r"--[\w.]+", word):
        return not _is_flag(word)
    if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)+/?", word) and word.split("/")[0] in FOLDERS:
        return not list(ROOT.glob(word.rstrip("/"))) and word not in MADE
    if re.fullmatch(r"[\w/.-]+\.(py|sh|md|yaml|json)", word):
        return not _exists(word) and f'"{Path(word).name}"' not in CODE
    if re.fullmatch(r"[A-Z]\w+\.\w+", word):
        return not _is_member(*word.split("."))
    if re.fullmatch(r"\w+(\.\w+)+", word) and (_is_field(first := word.split(".")[0]) or first in (*TOP, "genesis_ds")):
        there = _is_field(word) or _is_ds_key(word) or f'"{word}"' in CODE
        return not there and not _is_module(f"genesis_ds.{word.removeprefix('genesis_ds.')}")
    return False


@pytest.mark.parametrize("line", TRAIN, ids=str)
def test_a_training_command_is_resolved(line, monkeypatch):
    words = TRAIN[line]
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "tests/docs/examples")
    program = next(word for word in words if word in ("launch/train.py", "train"))
    arguments = train_arguments(words[words.index(program) + 1 :])
    n_ranks = 2 if {"torchrun", "--hostfile"} & set(words) else 1
    resolved = resolve_ds_config(arguments, Ranks(0, 0, n_ranks)).config
    assert resolved["train_batch_size"] == arguments.run.batch.global_batch_size


@cache
def _planned(*words: str) -> tuple[int, str]:
    """Exit code and output of a plan; the pages have some of them twice."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        return main([*words]), out.getvalue()


SEARCHES = [pytest.param(line, id=line, marks=pytest.mark.slow) for line in MEMORY if "--fit" in line]
"""They plan many runs."""


@pytest.mark.parametrize("line", [*(line for line in MEMORY if "--fit" not in line), *SEARCHES], ids=str)
def test_a_memory_command_finds_that_it_fits_and_prints_what_the_page_says(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    exit_code, printed = _planned(*MEMORY[line][1:])
    assert exit_code == 0
    command = line.partition(": ")[2]
    after = TEXTS[line.partition(": ")[0]].partition(f"```bash\n{command}\n")[2].partition("```bash")[0]
    shown = re.search(r"```\n(verdict .*?)```", after, re.DOTALL)
    assert [text for text in (shown[1].splitlines() if shown else []) if text not in printed] == []


@pytest.mark.parametrize("line", OTHERS, ids=str)
def test_a_command_exists_with_its_flags_and_files(line):
    first, *rest = OTHERS[line]
    if "--" in rest:  # what follows is a command of its own
        rest = rest[: rest.index("--")]
    flags = [word for word in rest if word.startswith("--")]
    if first == "genesis-ds":
        words = itertools.takewhile(lambda word: word not in flags, rest)
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
            assert main([*words, "--help"]) == 0
        assert [flag for flag in flags if f"{flag} " not in told.getvalue()] == []
    elif first in ("python", "pytest"):
        scripts = [word for word in rest if re.fullmatch(r"[\w/]+\.py(::\w+)?|tests(/\w+)*", word)]
        assert scripts or rest[:1] == ["-m"], "a program"
        assert [script for script in scripts if not _exists(script.partition("::")[0])] == []
        assert [flag for flag in flags if not _is_flag(flag)] == []
    else:
        assert (ROOT / first).stat().st_mode & 0o100, "a script that can be run"


@by_page
def test_every_file_flag_key_and_name_is_there(page):
    text = TEXTS[page]
    assert [span for span in _spans(text) if _is_false(span)] == []
    for file, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, | and )?)+)", text):
        source = next(source for path, source in SOURCES.items() if str(path).endswith(f"/{file}"))
        assert [name for name in re.findall(r"\w+", names) if name != "and" and name not in source] == [], file


@by_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in _headings(file), target


@by_page
def test_every_yaml_is_one_that_a_run_takes(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "tests/docs/examples")
    for block in re.findall(r"```yaml\n(.*?)```", TEXTS[page], re.DOTALL):
        (tmp_path / "run.yaml").write_text(block, encoding="utf-8")
        train_arguments(["--config", str(tmp_path / "run.yaml")])


def test_the_readme_is_short_and_names_every_page_and_ds_config():
    readme, runs = TEXTS["README.md"], TEXTS["docs/runs.md"]
    assert len(readme.splitlines()) <= 150
    assert [page for page in TEXTS if page.startswith("docs/") and f"]({page})" not in readme] == []
    assert [path.name for path in ROOT.glob("ds_configs/*.json") if f"| `{path.name}` |" not in readme] == []
    assert [path.name for path in ROOT.glob("launch/runs/*.yaml") if f"| `{path.name}` |" not in runs] == []


def test_the_readme_names_the_command_that_ci_calls():
    assert "./launch/test.sh" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert {"./launch/test.sh", "./launch/quickstart.sh"} <= {words[0] for words in ALL.values()}

"""What surrounds a process is read strictly, and its encoding changes nothing."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_ds import environment
from genesis_ds.engine import compiled_ops, distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.user_files import expanded

ROOT = Path(__file__).parents[2]
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def surroundings(monkeypatch):
    def put(**values):
        for name in (*NAMES, "DEEPSPEED_TIMEOUT", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


TWO = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "29500"}


def test_ranks_are_what_a_launcher_says_and_one_where_none_does(surroundings):
    surroundings()
    assert Ranks.from_environment() == Ranks(0, 0, 1, 1)
    surroundings(WORLD_SIZE="4", RANK="3", LOCAL_RANK="1", LOCAL_SIZE="2", MASTER_PORT="29500")
    assert Ranks.from_environment() == Ranks(3, 1, 4, 2)
    surroundings(WORLD_SIZE="", RANK="", LOCAL_RANK="")
    assert Ranks.from_environment() == Ranks(0, 0, 1, 1)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE"),
        ({"RANK": "1"}, "RANK"),
        ({"RANK": "-1"}, "RANK"),
        (TWO | {"RANK": "2"}, "RANK"),
        (TWO | {"LOCAL_RANK": "2"}, "LOCAL_RANK"),
        (TWO | {"LOCAL_RANK": "x"}, "LOCAL_RANK"),
        (TWO | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE"),
        (TWO | {"LOCAL_SIZE": "1.5"}, "LOCAL_SIZE"),
        (TWO | {"MASTER_PORT": ""}, "MASTER_PORT"),
    ],
)
def test_what_no_launcher_sets_is_one_line(surroundings, values, name):
    surroundings(**values)
    with pytest.raises(UserError, match=f"^{name}: .*the launcher"):
        Ranks.from_environment()


@pytest.mark.parametrize(("name", "starter"), [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")])
def test_plain_tasks_would_each_train_alone_and_are_refused(surroundings, monkeypatch, name, starter):
    surroundings()
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"^{starter} has started 2 tasks, .*: .*{starter} -n .*torchrun"):
        Ranks.from_environment()
    monkeypatch.setenv(name, "1")
    assert Ranks.from_environment() == Ranks(0, 0, 1, 1)
    surroundings(**TWO)
    monkeypatch.setenv(name, "2")
    assert Ranks.from_environment() == Ranks(1, 0, 2, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEEPSPEED_TIMEOUT", "soon"),
        ("DEEPSPEED_TIMEOUT", "0"),
        ("MASTER_PORT", "port"),
        ("MASTER_PORT", "70000"),
        ("OMP_NUM_THREADS", "abc"),
        ("OMP_NUM_THREADS", "0"),
    ],
)
def test_what_a_library_would_fail_on_later_is_said_before(surroundings, name, value):
    surroundings(**{name: value})
    with pytest.raises(UserError, match=f"^{name}: '{value}' is not a "):
        environment.check()


def test_a_compiled_operation_needs_a_directory_that_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file/inside"))
    with pytest.raises(UserError, match=r"^TORCH_EXTENSIONS_DIR: .*file/inside.*: Not a directory"):
        compiled_ops.build("cpu_adam")


def test_without_a_home_directory_nothing_is_put_into_one(monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    with pytest.raises(UserError, match=r"no such home directory is known \(HOME\)"):
        distributed.extensions_directory()
    with pytest.raises(UserError, match="HOME"):
        expanded("~/runs")


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def genesis_ds(*arguments, **extra):
    command = [sys.executable, "-m", "genesis_ds", *arguments]
    variables = os.environ | PLAIN | extra
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("encoding", ["", "ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_escaped(encoding):
    done = genesis_ds("tokenizer", "inspect", "--text", "그리고", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"vocabulary" in done.stdout


def test_a_path_that_the_locale_cannot_name_is_one_line(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("name: 한국\nmodel: {vocab_size: 260}\n", encoding="utf-8")
    done = genesis_ds("memory", "--config", str(run), "--hardware", "rtx4070")
    assert done.returncode == 2
    assert b"set LC_ALL=C.UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


def opened_without_encoding(tree):
    """The lines of calls that open text in the locale's encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if is_method else getattr(call.func, "id", "")
        words = {keyword.arg for keyword in call.keywords}
        binary = any("b" in str(mode.value) for mode in call.args[1:2] if isinstance(mode, ast.Constant))
        opens = name in ("read_text", "write_text") if is_method else name == "open" and not binary
        if "encoding" not in words and (opens or (name in ("run", "Popen") and "text" in words)):
            yield call.lineno


def test_every_file_is_of_utf8_whatever_the_locale():
    sources = [*(ROOT / "genesis_ds").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    found = {str(path): [*opened_without_encoding(ast.parse(path.read_text(encoding="utf-8")))] for path in sources}
    assert {path: lines for path, lines in found.items() if lines} == {}


def train(*arguments, **variables):
    command = [sys.executable, "launch/train.py", "--print_config", *arguments]
    surroundings = {key: value for key, value in os.environ.items() if key not in NAMES} | variables
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


def test_a_training_process_says_so_in_one_line_and_exits_with_2():
    done = train(RANK="one")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: RANK: 'one'")


def test_a_port_in_use_is_one_line(surroundings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        surroundings(MASTER_PORT=str(taken.getsockname()[1]))
        code = (
            "from genesis_ds.engine import distributed as d; from genesis_ds.errors import UserError\n"
            "ranks = d.Ranks.from_environment(); d.set_environment(ranks)\n"
            "try: d.initialise(ranks)\n"
            "except UserError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
    assert "is in use on this host; unset it" in done.stdout, done.stderr[-2000:]


TORCHRUN = """
import os, subprocess, sys
os.environ |= {"TORCHELASTIC_RUN_ID": "1"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
code = "from genesis_ds import environment; print(environment.threads_are_given())"
subprocess.run([sys.executable, "-c", code], check=True)
"""


@pytest.mark.parametrize(("given", "told"), [({}, "False"), ({"OMP_NUM_THREADS": "1"}, "True")])
def test_one_thread_of_the_users_is_told_from_torchruns(given, told):
    surrounding = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | given
    command = [sys.executable, "-c", TORCHRUN]
    done = subprocess.run(command, env=surrounding, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told


def test_ranks_share_the_cores_of_a_host_unless_the_user_says_how_many_threads(surroundings, monkeypatch):
    found = []
    monkeypatch.setattr(distributed.torch, "set_num_threads", found.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    surroundings()
    for ranks in (Ranks(0, 0, 1, 1), Ranks(4, 0, 8, 4), Ranks(0, 0, 16, 16)):
        distributed.share_cores(ranks)
    surroundings(OMP_NUM_THREADS="2")
    distributed.share_cores(Ranks(0, 0, 1, 1))
    assert found == [12, 3, 1]

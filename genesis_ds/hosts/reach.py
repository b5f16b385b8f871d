"""The hosts of a hostfile, reached as `deepspeed --hostfile` reaches them, and asked.

pdsh calls `ssh -a -x HOST COMMAND` on every host, the first too; so is it done here, without pdsh, which would mix
what the hosts say. The command is a run's: the same variables, folder and Python.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from genesis_ds.errors import UserError, require_file, shown

SSH_WITHIN = 10
"""Seconds for a connection by ssh."""
HOST_LINE = re.compile(r"[^\W_][\w.:-]*\s+slots=[0-9]{1,6}(\s*#.*)?")
"""A line of a hostfile."""
SSH_FAILED = 255
"""ssh's exit code for an error of its own; any other is the command's."""
MARK = "genesis-ds doctor: "
"""Before what a host answers: its shell may print other things."""


class Silent(Exception):
    """A host that cannot be reached, or does not answer."""

    def __init__(self, reason: str, by_ssh: bool) -> None:
        super().__init__(reason)
        self.by_ssh = by_ssh
        """Whether ssh did not get there; otherwise the command did not do its work."""


def read_hostfile(path: str) -> dict[str, int]:
    """Return {host: slots} by DeepSpeed's own parser. Raises UserError."""
    from deepspeed.launcher.runner import fetch_hostfile

    require_file(path, "--hostfile")
    if not os.path.exists(path):
        raise UserError(f"--hostfile: {path}: no such file; copy launch/hostfile.example, and name your hosts")
    _require_lines(path)
    try:
        hosts: dict[str, int] = fetch_hostfile(path)
    except ValueError as error:
        reason = str(error).partition(", unable to proceed")[0]
        raise UserError(f"--hostfile: {path}: {reason}; a line is: NAME slots=NUMBER") from error
    if idle := [host for host, slots in hosts.items() if slots < 1]:
        raise UserError(f"--hostfile: {path}: {idle[0]} has slots=0; give it one or more, or take its line out")
    return hosts


def _require_lines(path: str) -> None:
    """Raise UserError for a line of a hostfile of which DeepSpeed's parser would read the beginning alone."""
    for number, line in enumerate(_lines(Path(path), "--hostfile: "), 1):
        if not line.lstrip().startswith("#") and line.strip() and not HOST_LINE.fullmatch(line.strip()):
            raise UserError(
                f"--hostfile: {path}: line {number}: '{shown(line)}' is no host; give NAME slots=NUMBER, a name of "
                "letters, digits and . : _ - that begins with a letter or a digit"
            )


def _lines(file: Path, what: str = "") -> list[str]:
    """Return the lines of a text. Raises UserError for one that cannot be read."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what}{file}: cannot be read as UTF-8 text: {shown(error)}; write it anew") from error


def exports() -> dict[str, str]:
    """Return the variables that the launcher gives every host. Raises UserError for a line that it cannot read."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.launcher.runner import DEEPSPEED_ENVIRONMENT_NAME, DEEPSPEED_ENVIRONMENT_PATHS, EXPORT_ENVS

    kinds = tuple(EXPORT_ENVS + get_accelerator().export_envs())
    found = {name: value for name, value in os.environ.items() if name.startswith(kinds)}
    found["PYTHONPATH"] = ":".join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    for folder in DEEPSPEED_ENVIRONMENT_PATHS:
        file = Path(folder, DEEPSPEED_ENVIRONMENT_NAME)
        lines = _lines(file) if file.is_file() else []
        for number, line in enumerate(lines, 1):
            name, sign, value = line.partition("=")
            if not sign:
                raise UserError(
                    f"{file}: line {number}: '{line}' is no KEY=VALUE, on which deepspeed ends; take the line out: "
                    "comments and empty lines are not read"
                )
            found[name.strip()] = value.strip()
    return found


def ssh_command(host: str, command: str) -> list[str]:
    """Return the words that run a command on a host, without asking for a password. Raises UserError."""
    try:
        more = shlex.split(given := os.environ.get("PDSH_SSH_ARGS_APPEND", ""))
    except ValueError as error:
        raise UserError(f"PDSH_SSH_ARGS_APPEND: {shown(given)}: {error}; close the quotation, or unset it") from error
    return ["ssh", "-a", "-x", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_WITHIN}", *more, host, command]


def mend_ssh(reason: str, to: str, on: str) -> str:
    """Return what to do on a host for ssh to reach another. reason: ssh's own."""
    mends = {
        "Host key verification failed": f"ssh {to} once, and accept its key when it is the right one",
        "Permission denied": f"ssh-copy-id {to}",
        "resolve hostname": f"put the address of {to} into /etc/hosts, or name it as ssh knows it",
        "Connection refused": f"sudo systemctl start ssh, on {to}",
        "timed out": f"see whether {to} is up, and whether a firewall closes port 22",
        "No route to host": f"see whether {to} is up, and its network",
    }
    return next((f"on {on}: {mend}" for words, mend in mends.items() if words in reason), f"on {on}: ssh -v {to} true")


def _quoted(value: str) -> str:
    """Return a value as the launcher quotes it: $HOME in it is that of the host."""
    return f'"{value}"' if re.search(r"[^\w@%+=:,./-]", value) else value


class Talk:
    """A host that is asked, by one connection."""

    def __init__(self, host: str, exported: Mapping[str, str]) -> None:
        self.host = host
        words = [f"export {name}={_quoted(value)};" for name, value in exported.items()]
        agent = [sys.executable, "-u", "-m", "genesis_ds.hosts.agent"]
        command = " ".join([*words, f"cd {shlex.quote(os.getcwd())} &&", shlex.join(agent)])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            ssh_command(host, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    def ask(self, do: str, seconds: float, **about: Any) -> Any:
        """Return what the host answers. Raises Silent where it does not, within so many seconds."""
        assert self._process.stdin
        assert self._process.stdout
        late = threading.Timer(seconds, self._process.kill)
        late.start()
        try:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps({"do": do, "about": about}) + "\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(MARK):
                    return json.loads(line.removeprefix(MARK))
        finally:
            late.cancel()
        raise self._why(seconds)

    def close(self) -> None:
        """End the connection, and with it what runs on the host."""
        with suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(SSH_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _why(self, seconds: float) -> Silent:
        code = self._process.wait()
        if code < 0:
            return Silent(f"no answer within {seconds:.0f} s", by_ssh=False)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return Silent(shown(lines[-1] if lines else f"exit code {code}"), by_ssh=code == SSH_FAILED)

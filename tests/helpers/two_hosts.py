"""Two hosts on one machine: a network, host name, processes, mounts and an sshd each, joined by a link that can be cut.

A host's processes are those of the machine too, so that jobs.Job finds them. PID namespaces keep DeepSpeed's `pkill -f`
on one host from ending the other's. Everything is gone with the two processes that hold the namespaces.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from helpers.jobs import ONE_THREAD, ROOT, Job, free_port

TOOLS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "pdsh")
ADDRESSES = {1: "10.77.0.1", 2: "10.77.0.2"}
NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")

SSHD = """
ListenAddress {address}
HostKey {folder}/key{number}
AuthorizedKeysFile {folder}/id.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
INIT = """
hostname node-{number}
mount --bind {folder}/hosts{number} /etc/hosts
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
mount -t tmpfs tmpfs /run
mkdir /run/sshd
ip link set lo up
touch {folder}/made{number}
until ip addr add {address}/24 dev eth0 2> {folder}/link{number}; do sleep 0.05; done
ip link set eth0 up
$(command -v sshd) -D -f {folder}/sshd{number} -E {folder}/sshd{number}.log &
while :; do wait; sleep 1; done
"""


def missing() -> str | None:
    """Say why the bed cannot be made on this machine; None where it can."""
    if os.geteuid():
        return "two hosts need root"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"two hosts need {', '.join(lacking)}: apt-get install openssh-server pdsh iproute2"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"two hosts need CAP_SYS_ADMIN: {tried.stderr.decode().strip()}"


class Bed:
    """The hosts node-1 and node-2. `folder` is their HOME; the machine's other folders are seen by both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys_and_names()
        self._holders = [self._hold(number) for number in ADDRESSES]
        self._wait(lambda: all((folder / f"made{number}").exists() for number in ADDRESSES))
        one, two = (str(self._inside(number)) for number in ADDRESSES)
        _do("ip", "link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        self._wait(lambda: all(self.on(1, "ssh", f"node-{number}", "true").returncode == 0 for number in ADDRESSES))

    def enter(self, number: int) -> list[str]:
        """The words before a command that have it run on the host."""
        return ["nsenter", "-t", str(self._inside(number)), *NAMESPACES, f"--wdns={ROOT}", "--"]

    def on(self, number: int, *command: object, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host to its end; what it prints on both streams is its stdout."""
        return subprocess.run(
            [*self.enter(number), *map(str, command)],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """The environment of a login on a host, in this Python's environment."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"HOME": str(self.folder), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8"} | self.exports()

    def exports(self) -> dict[str, str]:
        """What a run needs on every host."""
        built = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/genesis_ds/torch_extensions"
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        return ONE_THREAD | {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(built), "PATH": path}

    def link(self, state: str) -> None:
        """Cut the link between the hosts ("down"), or mend it ("up")."""
        assert self.on(2, "ip", "link", "set", "eth0", state).returncode == 0

    def stop_sshd(self, number: int) -> None:
        """Have nobody reach a host by ssh any more."""
        mark = str(self.folder / f"sshd{number}")
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == "sshd" and mark in " ".join(process.info["cmdline"] or ()):
                process.kill()

    def start_sshd(self, number: int) -> None:
        """Have the host reached by ssh again."""
        words = [
            str(shutil.which("sshd")),
            "-f",
            f"{self.folder}/sshd{number}",
            "-E",
            f"{self.folder}/sshd{number}.log",
        ]
        assert self.on(number, *words).returncode == 0
        self._wait(lambda: self.on(1, "ssh", f"node-{number}", "true").returncode == 0)

    def close(self) -> None:
        """End everything that runs on the hosts, and the hosts."""
        for holder in self._holders:
            holder.kill()  # --kill-child: and with it the first process of the PID namespace, and all others
            holder.wait()

    def _keys_and_names(self) -> None:
        folder, known = self.folder, ""
        for name in ("id", *(f"key{number}" for number in ADDRESSES)):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        names = "".join(f"{address} node-{number}\n" for number, address in ADDRESSES.items())
        for number, address in ADDRESSES.items():
            known += f"node-{number} {' '.join((folder / f'key{number}.pub').read_text().split()[:2])}\n"
            place = {"folder": folder, "number": number, "address": address}
            (folder / f"hosts{number}").write_text(f"127.0.0.1 localhost\n{names}")
            (folder / f"sshd{number}").write_text(SSHD.format(**place))
            (folder / f"init{number}").write_text(INIT.format(**place))
        (folder / "known_hosts").write_text(known)
        (folder / "ssh_config").write_text(f"IdentityFile {folder}/id\nUserKnownHostsFile {folder}/known_hosts\n")
        (folder / "hostfile").write_text("".join(f"node-{number} slots=1\n" for number in ADDRESSES))
        (folder / ".deepspeed_env").write_text("".join(f"{key}={value}\n" for key, value in self.exports().items()))

    def _hold(self, number: int) -> "subprocess.Popen[bytes]":
        words = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash"]
        words.append(f"{self.folder}/init{number}")
        return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)

    def _inside(self, number: int) -> int:
        return int(psutil.Process(self._holders[number - 1].pid).children()[0].pid)

    @staticmethod
    def _wait(condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the hosts did not come up"
            time.sleep(0.1)


class HostsJob(Job):
    """A run on both hosts, started on node-1 by `deepspeed --hostfile`."""

    def __init__(self, bed: Bed, name: str, *arguments: object) -> None:
        super().__init__(bed.folder, name, "deepspeed", 2, *arguments)
        self.bed, self.environment = bed, bed.environment()

    def command(self) -> list[str]:
        """The command line, which enters node-1 first."""
        launcher = ["-m", "deepspeed.launcher.runner", "--hostfile", str(self.folder / "hostfile")]
        launcher += ["--master_port", str(free_port()), str(ROOT / "launch/train.py")]
        return [*self.bed.enter(1), sys.executable, *launcher, *self.arguments]

    def start_by_hand(self, number: int, port: int, more: Sequence[object] = ()) -> "subprocess.Popen[bytes]":
        """Start the rank of one host alone, as torchrun would; both are to be given the same port."""
        rank = str(number - 1)
        ranks = {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*self.bed.enter(number), sys.executable, "-u", "launch/train.py", *self.arguments, *map(str, more)],
                cwd=ROOT,
                env=self.environment | ranks | {"MASTER_ADDR": "node-1", "MASTER_PORT": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _do(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

"""`genesis-ds doctor --hostfile` on two hosts: all is well, and every planted fault is found and named."""

import json
import subprocess
import sys
import time

import pytest
from helpers.jobs import ROOT, TINY, free_port

from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus

BACK = "import time; now = time.time; time.time = lambda: now() - 3600"
"""Python's clock, an hour behind."""


class Doctor:
    """The command on node-1, and faults that are planted on one host and taken away at the end."""

    def __init__(self, bed, folder):
        self.bed, self.folder, self.exit_code = bed, folder, None
        self.mounts, self.undo = [], []
        (folder / "site").mkdir()
        (folder / "site/sitecustomize.py").touch()
        self.site = {"PYTHONPATH": str(folder / "site")}
        place = {"--data.corpus": bed.folder / "corpus", "--data.token_sets": folder / "token_sets"}
        place |= {"--output_dir": folder / "runs", "--ds_config": "ds_configs/zero2.json"}
        self.words = [str(word) for pair in (TINY | place).items() for word in pair]

    def mount(self, number, source, target):
        """Have one host see another file or folder in a place."""
        done = self.bed.on(number, "mount", "--bind", source, target)
        assert done.returncode == 0, done.stdout
        self.mounts.append((number, target))

    def write(self, name, text):
        """A file of these words."""
        (self.folder / name).write_text(text)
        return self.folder / name

    def ask(self, *words):
        """The findings, {check: {host, or "" for all: (status, what is said, what mends it)}}."""
        arguments = ["--hostfile", self.bed.folder / "hostfile", "--master_port", free_port(), "--json", *self.words]
        done = subprocess.run(
            [*self.bed.enter(1), sys.executable, "-m", "genesis_ds", "doctor", *map(str, [*arguments, *words])],
            cwd=ROOT,
            env=self.bed.environment() | self.site,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        self.exit_code = done.returncode
        assert done.stdout, done.stderr
        found = {}
        for its in json.loads(done.stdout)["findings"]:
            for host in its["hosts"] or [""]:
                found.setdefault(its["check"], {})[host] = its["status"], its["said"], its["mend"]
        return found

    def close(self):
        for number, target in reversed(self.mounts):
            self.bed.on(number, "umount", target)
        for undo in self.undo:
            undo()


@pytest.fixture
def doctor(bed, tmp_path):
    made = Doctor(bed, tmp_path)
    yield made
    made.close()


def statuses(found):
    """What is not ok; whether other programs hold much memory is the machine's affair."""
    wrong = {check: status for check, its in found.items() for status, _, _ in its.values() if status != "ok"}
    wrong.pop("memory", None)
    return wrong


def test_on_two_hosts_that_are_well_a_run_can_start(doctor):
    found = doctor.ask()
    assert statuses(found) == {}
    assert doctor.exit_code == 0
    assert "2 ranks at 10.77.0.1:" in found["all reduce"][""][1]
    assert "GB/s" in found["all reduce"][""][1]
    assert found["own name"]["node-2"][1] == "node-2 is 10.77.0.2"
    assert not (doctor.folder / "runs").exists()


def test_what_differs_on_a_host_is_named(doctor, bed):
    other = json.loads((ROOT / "ds_configs/zero2.json").read_text())
    other["zero_optimization"]["reduce_bucket_size"] = 12345
    doctor.mount(2, doctor.write("zero2.json", json.dumps(other)), ROOT / "ds_configs/zero2.json")
    doctor.mount(2, doctor.write("late.py", BACK), doctor.folder / "site/sitecustomize.py")
    git = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    doctor.mount(2, doctor.write("HEAD", "ref: refs/heads/another\n"), f"{git.stdout.strip()}/HEAD")
    save_corpus(synthetic_corpus(seed=1), doctor.folder / "corpus")
    doctor.mount(2, doctor.folder / "corpus", bed.folder / "corpus")
    for folder in ("runs", "own"):
        (doctor.folder / folder).mkdir()
    doctor.mount(2, doctor.folder / "own", doctor.folder / "runs")
    found = doctor.ask()
    assert doctor.exit_code == 1
    run, program, data = (found[f"same {what}"][""] for what in ("run", "program", "data"))
    assert run[:2] == (
        "fails",
        "node-2 differs from node-1: ds_config.zero_optimization.reduce_bucket_size is 12345 there, "
        f"{json.loads((ROOT / 'ds_configs/zero2.json').read_text())['zero_optimization']['reduce_bucket_size']} here",
    )
    assert program[0] == "fails"
    assert "node-2 differs from node-1: commit is None there" in program[1]
    assert program[2].endswith("--allow different_versions")
    assert data[0] == "fails"
    assert "node-2 differs from node-1: corpus is" in data[1]
    shared = found["shared directory"][""]
    assert shared[0] == "fails"
    assert f"node-2 does not see {doctor.folder}/runs of node-1" in shared[1]
    assert found["clocks"][""][:2] == ("warning", "node-2 is 3,600 s behind node-1")
    assert found["clock"]["node-2"][0] == "warning"
    assert statuses(found).keys() == {"same run", "same program", "same data", "shared directory", "clocks", "clock"}


def test_a_network_that_is_not_right_is_named(doctor, bed):
    port = free_port()
    names = bed.folder / "hosts2"
    before = names.read_text()
    doctor.undo.append(lambda: names.write_text(before))
    names.write_text("127.0.0.1 localhost\n127.0.1.1 node-2\n")
    holder = f"import socket, time; s = socket.create_server(('', {port})); print(flush=True); time.sleep(600)"
    held = subprocess.Popen([*bed.enter(1), sys.executable, "-c", holder], stdout=subprocess.PIPE)
    doctor.undo.append(held.kill)
    held.stdout.readline()
    found = doctor.ask("--master_port", port)
    assert doctor.exit_code == 1
    assert found["own name"]["node-2"][0] == "fails"
    assert "node-2: is 127.0.1.1 by its own /etc/hosts" in found["own name"]["node-2"][1]
    assert found["names"]["node-2"][:2] == ("fails", "node-1 of the hostfile is not known")
    assert found["port"]["node-1"][0] == "fails"
    assert found["port"]["node-1"][1].startswith(f"{port}: Address already in use by process ")
    assert found["ssh back"]["node-2"][0] == "warning"
    assert "ssh: Could not resolve hostname node-1" in found["ssh back"]["node-2"][1]
    assert found["route"]["node-2"][0] == "fails"
    assert found["all reduce"][""][1].startswith("not tried")


def test_a_host_that_is_not_reached_and_a_line_that_deepspeed_cannot_read_are_named(doctor, bed):
    bed.stop_sshd(2)
    doctor.undo.append(lambda: bed.start_sshd(2))
    file = bed.folder / ".deepspeed_env"
    before = file.read_text()
    doctor.undo.append(lambda: file.write_text(before))
    file.write_text(f"# of node-1\n{before}")
    found = doctor.ask()
    assert doctor.exit_code == 1
    status, said, mend = found["ssh"]["node-2"]
    assert (status, mend) == ("fails", "on node-1: sudo systemctl start ssh, on node-2")
    assert "node-2 port 22: Connection refused" in said
    assert found["ssh"]["node-1"][0] == "ok"
    status, said, _ = found["environment"][""]
    assert status == "fails"
    assert said.startswith(f"{file}: line 1: '# of node-1' is no KEY=VALUE")
    assert {"ssh", "environment", "all reduce"} <= statuses(found).keys()


def test_a_host_without_the_program_is_named(doctor):
    (doctor.folder / "nothing").mkdir()
    doctor.mount(2, doctor.folder / "nothing", ROOT / "genesis_ds")
    found = doctor.ask()
    assert doctor.exit_code == 1
    status, said, mend = found["python"]["node-2"]
    assert status == "fails"
    assert "genesis_ds.hosts" in said
    assert str(ROOT) in mend


@pytest.mark.slow
def test_a_port_that_a_firewall_closes_is_named(doctor, bed):
    port = free_port()
    rule = ["rule", "add", "ipproto", "tcp", "dport", str(port), "blackhole"]
    assert bed.on(2, "ip", *rule).returncode == 0
    doctor.undo.append(lambda: bed.on(2, "ip", "rule", "del", *rule[2:]))
    started = time.monotonic()
    found = doctor.ask("--master_port", port)
    assert doctor.exit_code == 1
    assert statuses(found) == {"all reduce": "fails"}
    assert f"1 of 2 ranks at 10.77.0.1:{port} (node-2) did not come" in found["all reduce"][""][1]
    assert time.monotonic() - started < 180


def test_wsl2_is_told_of_by_doctor_and_at_the_start_of_a_run(doctor, bed):
    doctor.mount(2, doctor.write("version", "Linux version 6.6.87.2-microsoft-standard-WSL2\n"), "/proc/version")
    found = doctor.ask()
    assert doctor.exit_code == 0
    status, said, mend = found["wsl2 ram"]["node-2"]
    assert status == "warning"
    assert "of RAM are given to WSL2" in said
    assert ".wslconfig" in mend
    assert "node-1" not in found["wsl2 ram"]
    run = bed.on(2, sys.executable, "launch/train.py", "--name", "wsl", "--max_steps", 1, *doctor.words, timeout=200)
    assert run.returncode == 0, run.stdout
    assert f"wsl2       {said}; " in run.stdout

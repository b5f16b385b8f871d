"""What `genesis-ds doctor` makes of several hosts: their names, how they are reached, and where they differ."""

import re

import pytest
from helpers.jobs import free_port

from genesis_ds.cli import main
from genesis_ds.config.parse import parse_arguments
from genesis_ds.errors import UserError
from genesis_ds.hosts import across, exchange, network, reach
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.command import flags
from genesis_ds.hosts.finding import go_through


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("node-1 slots=1\nnode-2\n", "hostfile: line 2: 'node-2' is no host; give NAME slots=NUMBER"),
        ("node-1 slots=1 node-2 slots=1\n", "line 1: 'node-1 slots=1 node-2 slots=1' is no host"),
        ("node-1 slots=1.5\n", "line 1: 'node-1 slots=1.5' is no host"),
        ("-oProxyCommand=x slots=1\n", "line 1: '-oProxyCommand=x slots=1' is no host"),
        ("a;rm slots=1\n", "line 1: 'a;rm slots=1' is no host"),
        ("node-1 slots=1\nnode-1 slots=2\n", "Hostfile contains multiple entries for node-1"),
        ("# nothing\n", "Hostfile is empty or not formatted correctly"),
        ("node-1 slots=0\n", "node-1 has slots=0"),
        (None, "no such file"),
    ],
)
def test_a_hostfile_that_deepspeed_does_not_read_is_a_mistake(place, capsys, lines, reason):
    if lines is not None:
        (place / "hostfile").write_text(lines)
    assert main(["doctor", "--hostfile", "hostfile"]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "content", "reason"),
    [
        ("", b"\xff=1\n", r"\.deepspeed_env: cannot be read as UTF-8 text: .*; write it anew"),
        ("-o 'x", b"", "PDSH_SSH_ARGS_APPEND: -o 'x: No closing quotation; close the quotation, or unset it"),
    ],
)
def test_what_the_launcher_would_be_given_and_cannot_read_is_a_mistake(place, monkeypatch, variable, content, reason):
    (place / ".deepspeed_env").write_bytes(content)
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", variable)
    with pytest.raises(UserError, match=reason):
        reach.ssh_command("node-1", str(reach.exports()))


def test_a_hostfile_is_read_as_deepspeed_reads_it(place):
    (place / "hostfile").write_text("# mine\nnode-2 slots=4\n\nnode-1 slots=8 # the older one\n")
    assert list(reach.read_hostfile("hostfile").items()) == [("node-2", 4), ("node-1", 8)]


def test_exports_are_those_of_the_launcher(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("PYTHONPATH", "/mine")
    (place / ".deepspeed_env").write_text("GLOO_SOCKET_IFNAME=eth0\nMORE=a=b\n")
    exported = reach.exports()
    assert exported["GLOO_SOCKET_IFNAME"] == "eth0"
    assert exported["MORE"] == "a=b"
    assert exported["PYTHONPATH"] == f"{place}:/mine"
    assert "HOME" not in exported
    (place / ".deepspeed_env").write_text("A=1\n\n")
    with pytest.raises(UserError, match="line 2: '' is no KEY=VALUE"):
        reach.exports()


def test_an_interface_that_is_not_here_fails(place, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    arguments = parse_arguments(["--data.corpus", "corpus"], flags(), "genesis-ds doctor", "")
    case = Case(arguments, "localhost", {"localhost": 1, "127.0.0.1": 1})
    (found,) = go_through([network.route], case)
    assert found.status == "fails"
    assert found.said.startswith("GLOO_SOCKET_IFNAME=nowhere0, an interface that is not here (")


def test_ranks_of_one_host_sum_and_say_how_fast(place):
    port = free_port()
    found = exchange.finding(exchange.of_host("127.0.0.1", port, "here", {"here": 2}), "127.0.0.1", port)
    assert found.status == "ok"
    assert re.fullmatch(rf"2 ranks at 127.0.0.1:{port} by gloo: 64.00 MiB summed in [\d.]+ s, [\d.]+ GB/s", found.said)


@pytest.mark.parametrize("port", ["0", "65536", "many"])
def test_a_port_that_is_none_is_a_mistake(place, capsys, port):
    assert main(["doctor", "--master_port", port]) == 2
    assert "--master_port" in capsys.readouterr().err


def test_each_host_with_other_versions_is_named():
    looked = {
        name: {"facts": {"versions": {"torch": torch}, "commit": {"commit": "a"}}}
        for name, torch in (("node-1", "2.13.0"), ("node-2", "2.12.1"), ("node-3", "2.13.0"), ("node-4", "2.11.0"))
    }
    hosts = across.Hosts(dict.fromkeys(looked, 1), 29500, {}, looked)
    found = list(across.same_program(hosts))
    assert [finding.said for finding in found] == [
        "node-2 differs from node-1: torch is '2.12.1' there, '2.13.0' here",
        "node-4 differs from node-1: torch is '2.11.0' there, '2.13.0' here",
    ]
    assert all(finding.mend.endswith("--allow different_versions") for finding in found)

"""How findings are shown: one line each where nobody watches, wrapped to a terminal, many hosts together."""

from dataclasses import replace

import pytest

from genesis_ds.hosts import table
from genesis_ds.hosts.finding import fails, ok, warning
from genesis_ds.hosts.table import show, together, verdict

HOSTS = [f"node-{number}" for number in range(1, 33)]


def test_where_nobody_watches_a_finding_is_a_line(capsys):
    said = "a reason of many words " * 20
    show("title", [("machine", replace(fails(said.strip(), "mend it"), check="disk"))], [], column=4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:5] == [f"  disk  fails    {said.strip()}", "                 -> mend it"]
    assert lines[-1] == "a run cannot start: disk; no warnings"
    assert [line for line in lines if line != line.rstrip()] == []


def test_of_one_machine_a_finding_is_shown_before_the_next_is_looked_for(capsys):
    def found():
        yield "machine", replace(ok("there"), check="disk")
        assert capsys.readouterr().out.splitlines()[-1] == "  disk   ok       there"
        yield "machine", replace(fails("slow", "mend it"), check="clock")

    assert [finding.check for finding in show("title", found(), [], column=5)] == ["disk", "clock"]


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_it_is_wrapped_and_no_word_is_broken(capsys, monkeypatch, width):
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    command = "genesis-ds build cpu_adam && genesis-ds build bf16_adam && rm /a/folder/of-some/length/cpu_adam/lock"
    show("title", [("a", replace(warning("words " * 40, command), check="build lock"))], [], column=10)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 6
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert all(word in words for word in command.split())


def test_hosts_that_say_the_same_are_one_line():
    its = [replace(ok("3.11"), check="python", hosts=(host,)) for host in HOSTS]
    its[7] = replace(its[7], said="3.10", status="warning")
    first, second = together(its, HOSTS)
    assert first.hosts == (*HOSTS[:7], *HOSTS[8:])
    assert (second.said, second.hosts) == ("3.10", ("node-8",))


def test_of_many_hosts_that_are_well_one_stands_for_all():
    its = [
        replace(ok(f"{host} is 10.0.0.{number}"), check="own name", hosts=(host,)) for number, host in enumerate(HOSTS)
    ]
    (one,) = together(its, HOSTS)
    assert one.said == "node-1 is 10.0.0.0 (node-1; 32 hosts)"


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([ok("")], "a run can start; no warnings"),
        ([ok(""), replace(warning("", ""), check="clock")], "a run can start; warnings: clock"),
        ([replace(fails("", ""), check="ssh")] * 2, "a run cannot start: ssh; no warnings"),
    ],
)
def test_the_last_line_says_what_comes_of_it(findings, said):
    assert verdict(findings).plain == said

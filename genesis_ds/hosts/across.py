"""The hosts of a hostfile beside each other: reached, the same, one file system, clocks alike, and able to sum."""

import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from genesis_ds.errors import UserError
from genesis_ds.hosts import exchange
from genesis_ds.hosts.finding import Finding, fails, mistake, name_of, ok, warning
from genesis_ds.hosts.machine import SKEW
from genesis_ds.hosts.reach import Silent, Talk, exports, mend_ssh
from genesis_ds.training.same_hosts import DIFFERENT_VERSIONS, SEEN_WITHIN, difference

T = TypeVar("T")
INSTALL_LAUNCHER = "sudo apt-get install pdsh openssh-client, or start torchrun on each host"
LOOKED_WITHIN = 180
"""Seconds in which a host goes through its checks: Python and torch may be on a slow network file system."""
ANSWERED_WITHIN = 30
"""Seconds for what takes none."""
SUBJECTS = {
    "versions": f"install the same on all hosts, or start with --allow {DIFFERENT_VERSIONS}",
    "commit": f"check out the same on all hosts, or start with --allow {DIFFERENT_VERSIONS}",
    "run": "give all hosts the same files",
    "data": "give all hosts the same corpus and tokenizer",
}
"""What hosts are compared by, and what to do where they differ."""


@dataclass
class Hosts:
    """Those of a hostfile, while they are asked."""

    slots: Mapping[str, int]
    port: int
    talks: dict[str, Talk]
    """Of the hosts that answer."""
    looked: dict[str, dict[str, Any]]
    """What each has found and is compared by."""

    @property
    def first(self) -> str:
        """The host that the others meet at."""
        return next(iter(self.slots))


def examine(argv: list[str], slots: Mapping[str, int], port: int) -> dict[str, list[Finding]]:
    """Return the findings of all hosts by section. argv: of the command, without its name."""
    reached = [replace(launcher(), check="launcher")]
    if not shutil.which("ssh"):
        return {"hosts": reached}
    try:
        exported = exports()
    except UserError as error:
        reached.append(replace(mistake(error), check="environment"))
        exported = {}
    with ExitStack() as stack:
        talks = {host: Talk(host, exported) for host in slots}
        for talk in talks.values():
            stack.callback(talk.close)
        looks = at_once(talks, lambda host, talk: _look(talk, argv=argv, slots=slots))
        reached += [_reached(host, look) for host, look in looks.items()]
        looked = {host: look for host, look in looks.items() if isinstance(look, dict)}
        hosts = Hosts(slots, port, {host: talks[host] for host in looked}, looked)
        sections = {"hosts": reached, **_of_each(hosts)}
        is_well = all(finding.status != "fails" for finding in (*reached, *sections.get("network", ())))
        together = list(_together(hosts, (*COMPARISONS, all_reduce) if is_well else COMPARISONS))
        if not is_well:
            together.append(replace(NOT_TRIED, check=name_of(all_reduce)))
    return {**sections, "together": together}


def _together(hosts: Hosts, checks: Iterable[Callable[[Hosts], Iterable[Finding]]]) -> Iterator[Finding]:
    """Yield what each check finds, with its name, or that a host falls silent meanwhile."""
    for check in checks:
        try:
            found = list(check(hosts))
        except Silent as silent:
            found = [fails(f"a host has fallen silent: {silent}", "see whether it, and the network, are up")]
        yield from (replace(finding, check=name_of(check)) for finding in found)


def at_once(talks: Mapping[str, Talk], function: Callable[[str, Talk], T]) -> dict[str, T]:
    """Return what a function of each host and its connection gives, for all at the same time."""
    if not talks:
        return {}
    with ThreadPoolExecutor(len(talks)) as pool:
        return dict(zip(talks, pool.map(function, talks, talks.values()), strict=True))


def launcher() -> Finding:
    """Look for what `deepspeed --hostfile` starts a run by."""
    if absent := [name for name in ("ssh", "pdsh") if not shutil.which(name)]:
        return fails(
            f"{' and '.join(absent)} not installed here, by which deepspeed --hostfile starts a run", INSTALL_LAUNCHER
        )
    return ok(str(shutil.which("pdsh")))


def _look(talk: Talk, argv: list[str], slots: Mapping[str, int]) -> dict[str, Any] | Silent:
    try:
        found: dict[str, Any] = talk.ask("look", LOOKED_WITHIN, argv=argv, host=talk.host, slots=slots)
    except Silent as silent:
        return silent
    return found


def _reached(host: str, look: dict[str, Any] | Silent) -> Finding:
    """Return whether ssh gets to a host, and Python and this program there begin."""
    if not isinstance(look, Silent):
        return replace(ok("reached"), check="ssh", hosts=(host,))
    if look.by_ssh:
        found = fails(str(look), mend_ssh(str(look), host, socket.gethostname()))
        return replace(found, check="ssh", hosts=(host,))
    mend = f"put {sys.executable} and {Path.cwd()} there too, at the same paths"
    return replace(fails(str(look), mend), check="python", hosts=(host,))


def _of_each(hosts: Hosts) -> dict[str, list[Finding]]:
    """Return what each host has found, by section."""
    sections: dict[str, list[Finding]] = {}
    for host, look in hosts.looked.items():
        for name, its in look["sections"].items():
            found = [replace(Finding(**finding), hosts=(host,)) for finding in its]
            sections.setdefault(name, []).extend(found)
    return sections


def same_program(hosts: Hosts) -> Iterator[Finding]:
    """Compare versions and commits with the first host's."""
    yield from _compared(hosts, "versions", "commit")


def same_run(hosts: Hosts) -> Iterator[Finding]:
    """Compare the run and its ds_config, value by value."""
    yield from _compared(hosts, "run")


def same_data(hosts: Hosts) -> Iterator[Finding]:
    """Compare the fingerprints of the corpus and the tokenizer."""
    yield from _compared(hosts, "data")


def _compared(hosts: Hosts, *subjects: str) -> Iterator[Finding]:
    facts = {host: look["facts"] for host, look in hosts.looked.items() if look["facts"]}
    found = [
        fails(differs, SUBJECTS[subject])
        for subject in subjects
        for host in list(facts)[1:]
        if (differs := difference([(name, facts[name][subject]) for name in (next(iter(facts)), host)]))
    ]
    if not found and len(facts) > 1:
        found = [ok(f"on {len(facts)} hosts")]
    yield from found


def shared_directory(hosts: Hosts) -> Iterator[Finding]:
    """Look at whether all hosts see the run's directory of the first: checkpoints are written by all ranks."""
    if hosts.first not in hosts.looked or len(hosts.talks) < 2 or "output" not in hosts.looked[hosts.first]:
        return
    output, first = hosts.looked[hosts.first]["output"], hosts.talks[hosts.first]
    path = f"{output}/.seen-by-all-{secrets.token_hex(8)}"
    if reason := first.ask("make", ANSWERED_WITHIN, path=path):
        yield mistake(UserError(reason))
        return
    others = {host: talk for host, talk in hosts.talks.items() if host != hosts.first}
    see = partial(Talk.ask, do="see", seconds=SEEN_WITHIN + ANSWERED_WITHIN, path=path, first=hosts.first)
    try:
        blind = at_once(others, lambda host, talk: see(talk))
    finally:
        first.ask("remove", ANSWERED_WITHIN, path=path)
    yield from (mistake(UserError(reason)) for reason in blind.values() if reason)
    if not any(blind.values()):
        yield ok(f"{output} of {hosts.first} is seen by all")


def clocks(hosts: Hosts) -> Iterator[Finding]:
    """Compare the clocks with the first host's: what is built and saved goes by times of files."""
    offsets = at_once(hosts.talks, lambda host, talk: _offset(talk))
    if hosts.first not in offsets or len(offsets) < 2:
        return
    apart = {host: offset - offsets[hosts.first] for host, offset in offsets.items() if host != hosts.first}
    wrong = {host: seconds for host, seconds in apart.items() if abs(seconds) > SKEW}
    for host, seconds in wrong.items():
        said = f"{host} is {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} {hosts.first}"
        yield warning(said, "sudo timedatectl set-ntp true, on both")
    if not wrong:
        yield ok(f"{max(map(abs, apart.values())):.1f} s apart at most")


def _offset(talk: Talk) -> float:
    """Return by how many seconds a host's clock is ahead of this one's, half of what the answer takes at most wrong."""
    before = time.time()
    there: float = talk.ask("now", ANSWERED_WITHIN)
    return there - (before + time.time()) / 2


def all_reduce(hosts: Hosts) -> Iterator[Finding]:
    """Have all ranks sum, where and as those of a run do."""
    if sum(hosts.slots.values()) == 1:
        return
    address = hosts.talks[hosts.first].ask("address", ANSWERED_WITHIN)
    if not address:
        yield fails(f"hostname -I says no address on {hosts.first}", "give the launcher one: --master_addr ADDRESS")
        return
    seconds = exchange.STARTED_WITHIN + exchange.MET_WITHIN + exchange.SUMMED_WITHIN + ANSWERED_WITHIN
    of_host = partial(Talk.ask, do="of_host", seconds=seconds, address=address, port=hosts.port, slots=hosts.slots)
    said = at_once(hosts.talks, lambda host, talk: of_host(talk, host=host))
    yield exchange.finding([its for host in hosts.slots for its in said[host]], address, hosts.port)


COMPARISONS = (same_program, same_run, same_data, shared_directory, clocks)
NOT_TRIED = warning("not tried, as hosts or their network fail above", "mend that first")

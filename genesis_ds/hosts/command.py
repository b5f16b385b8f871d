"""`genesis-ds doctor`: this machine, or the hosts of a hostfile."""

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from rich.console import Console

from genesis_ds.config.checks import require
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.ds_config import load_ds_config
from genesis_ds.engine.distributed import accelerator
from genesis_ds.errors import UserError
from genesis_ds.hosts import exchange, machine, operations, program
from genesis_ds.hosts.case import PORT, Case
from genesis_ds.hosts.finding import Finding, go_through, name_of
from genesis_ds.hosts.reach import read_hostfile
from genesis_ds.hosts.table import as_json, can_start, show

ABOUT = "Say whether a run can start on this machine, or on the hosts of a hostfile, and what mends it."
MOST_PORTS = 65535
SECTIONS = {"program": program.CHECKS, "machine": machine.CHECKS, "operations": operations.CHECKS}
"""Checks of one host, by what they are about."""


def main(argv: list[str]) -> int:
    """Run the command. Return the exit code: 0 where a run can start, 1 where it cannot. Raises UserError."""
    arguments = parse_arguments(argv, flags(), "genesis-ds doctor", ABOUT)
    port = arguments.options.master_port
    require("--master_port", port, 1 <= port <= MOST_PORTS, f"a port from 1 to {MOST_PORTS}")
    load_ds_config(arguments.ds_config_file)
    prefer_accelerator()
    options = arguments.options
    slots = read_hostfile(options.hostfile) if options.hostfile else {}
    where = options.hostfile or socket.gethostname()
    title, found = f"genesis-ds doctor: {where}", findings(arguments, argv, slots)
    if options.json:
        about = {"where": where, "run": arguments.run_file, "ds_config": arguments.ds_config_file}
        awaited = _awaited(found)
        print(as_json(about, awaited))
        said = [finding for _, finding in awaited]
    elif slots:
        awaited = _awaited(found)
        said = show(title, awaited, list(slots), max(len(finding.check) for _, finding in awaited))
    else:
        said = show(title, found, [], max(len(name_of(check)) for checks in SECTIONS.values() for check in checks))
    return 0 if can_start(said) else 1


def _awaited(found: Iterable[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """Return all findings; the standard error says meanwhile that they are awaited."""
    if os.isatty(2):
        with Console(stderr=True).status("looking ..."):
            return list(found)
    print("looking ...", file=sys.stderr)
    return list(found)


def findings(arguments: Arguments, argv: list[str], slots: Mapping[str, int]) -> Iterator[tuple[str, Finding]]:
    """Yield what was found, after the name of its section. slots: of each host; none: this machine alone."""
    if slots:
        from genesis_ds.hosts.across import examine

        of_hosts = examine(argv, slots, arguments.options.master_port)
        yield from ((name, finding) for name, its in of_hosts.items() for finding in its)
        return
    case = Case(arguments, port=arguments.options.master_port)
    is_well = True
    for name, checks in SECTIONS.items():
        for finding in go_through(checks, case):
            is_well &= name != "machine" or finding.status != "fails"
            yield name, finding
    if is_well and case.n_here > 1:
        here = {"": case.n_here}
        said = exchange.of_host("127.0.0.1", case.port, "", here)
        yield "together", replace(exchange.finding(said, "127.0.0.1", case.port), check="all reduce")


def prefer_accelerator() -> None:
    """Have DeepSpeed take the accelerator that a run takes, where there is one; it says on the output that it looks."""
    with suppress(UserError):
        os.environ["DS_ACCELERATOR"] = accelerator()


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--hostfile", help="look at the hosts of this file, as deepspeed --hostfile would start them")
    own.add_argument("--master_port", type=int, default=PORT, help="where ranks are to meet")
    own.add_argument("--json", action="store_true", help="print the findings as JSON")
    return own

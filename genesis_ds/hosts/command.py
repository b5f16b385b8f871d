"""`genesis-ds doctor`: this machine, or the hosts of a hostfile."""

import os
import socket
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace

from rich.console import Console

from genesis_ds.config.checks import require
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.ds_config import load_ds_config
from genesis_ds.engine.distributed import accelerator
from genesis_ds.errors import UserError
from genesis_ds.hosts import exchange, machine, operations, program
from genesis_ds.hosts.case import PORT, Case
from genesis_ds.hosts.finding import Finding, go_through
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
    with Console(stderr=True).status("looking ...") if os.isatty(2) else nullcontext():
        sections = findings(arguments, argv, slots)
    where = options.hostfile or socket.gethostname()
    if options.json:
        print(as_json({"where": where, "run": arguments.run_file, "ds_config": arguments.ds_config_file}, sections))
    else:
        show(f"genesis-ds doctor: {where}", sections, list(slots))
    return 0 if can_start([finding for its in sections.values() for finding in its]) else 1


def findings(arguments: Arguments, argv: list[str], slots: Mapping[str, int]) -> dict[str, list[Finding]]:
    """Return what was found, by section. slots: of each host; none: this machine alone."""
    if slots:
        from genesis_ds.hosts.across import examine

        return examine(argv, slots, arguments.options.master_port)
    case = Case(arguments, port=arguments.options.master_port)
    sections = {name: list(go_through(checks, case)) for name, checks in SECTIONS.items()}
    is_well = all(finding.status != "fails" for finding in sections["machine"])
    if is_well and case.n_here > 1:
        here = {"": case.n_here}
        said = exchange.of_host("127.0.0.1", case.port, "", here)
        sections["together"] = [replace(exchange.finding(said, "127.0.0.1", case.port), check="all reduce")]
    return sections


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

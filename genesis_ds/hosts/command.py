"""`genesis-ds doctor`: this machine, or the hosts of a hostfile."""

import socket
from collections.abc import Sequence

from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.hosts import machine, operations, program
from genesis_ds.hosts.case import PORT, Case
from genesis_ds.hosts.finding import Finding, go_through
from genesis_ds.hosts.table import as_json, can_start, show

SECTIONS = {"program": program.CHECKS, "machine": machine.CHECKS, "operations": operations.CHECKS}
"""Checks of one host, by what they are about."""


def main(argv: list[str]) -> int:
    """Run the command. Return the exit code: 0 where a run can start, 1 where it cannot. Raises UserError."""
    arguments = parse_arguments(
        argv,
        flags(),
        "genesis-ds doctor",
        "Say whether a run can start here, or on the hosts of a hostfile; and what mends it.",
    )
    case = Case(arguments, port=arguments.options.master_port)
    sections = {name: list(go_through(checks, case)) for name, checks in SECTIONS.items()}
    title = {"host": socket.gethostname(), "run": arguments.run_file, "ds_config": arguments.ds_config_file}
    if arguments.options.json:
        print(as_json(title, sections))
    else:
        show(f"genesis-ds doctor on {title['host']}", sections, [])
    return 0 if can_start([finding for its in sections.values() for finding in its]) else 1


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--hostfile", help="look at the hosts of this file, as deepspeed --hostfile would start them")
    own.add_argument("--master_port", type=int, default=PORT, help=f"where ranks are to meet (default: {PORT})")
    own.add_argument("--json", action="store_true", help="print the findings as JSON")
    return own

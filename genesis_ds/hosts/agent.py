"""What `genesis-ds doctor --hostfile` runs on each host: it answers questions, in lines of JSON, until its input ends.

`python -m genesis_ds.hosts.agent` by ssh; the questions are the public functions below.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genesis_ds.config.parse import parse_arguments
from genesis_ds.errors import UserError
from genesis_ds.hosts import exchange, network, program
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.command import SECTIONS, flags, prefer_accelerator
from genesis_ds.hosts.finding import go_through, mistake
from genesis_ds.hosts.reach import MARK
from genesis_ds.training.same_hosts import make_nonce, require_seen


def look(argv: list[str], host: str, slots: Mapping[str, int]) -> dict[str, Any]:
    """Return what the checks find here, by section, and what hosts are compared by."""
    try:
        arguments = parse_arguments(argv, flags(), "genesis-ds doctor", "")
    except UserError as error:
        return {"sections": {"program": [asdict(mistake(error)) | {"check": "run"}]}, "facts": None}
    case = Case(arguments, host, slots, arguments.options.master_port)
    checks = SECTIONS | {"network": network.CHECKS}
    return {
        "sections": {name: [asdict(finding) for finding in go_through(its, case)] for name, its in checks.items()},
        "facts": program.facts(case),
        "output": str(case.output()),
    }


def now() -> float:
    """Return what the clock says, in seconds since 1970."""
    return time.time()


def make(path: str) -> str:
    """Make a file in a directory that all hosts are to see. Return why not, or ""."""
    try:
        make_nonce(Path(path))
    except UserError as error:
        return str(error)
    return ""


def see(path: str, first: str) -> str:
    """Return why this host does not see a file that the first has made, or ""."""
    try:
        require_seen(Path(path), first)
    except UserError as error:
        return str(error)
    return ""


def remove(path: str) -> None:
    """Remove that file."""
    Path(path).unlink(missing_ok=True)


def address() -> str:
    """Return the address at which the launcher has the ranks meet: the first that `hostname -I` says."""
    said = subprocess.run(
        ["hostname", "-I"], capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stdout.split()
    return said[0] if said else ""


ANSWERS = {function.__name__: function for function in (look, now, make, see, remove, address, exchange.of_host)}


def main() -> None:
    """Answer until the input ends. What anything prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    prefer_accelerator()
    for line in sys.stdin:
        question = json.loads(line)
        print(MARK + json.dumps(ANSWERS[question["do"]](**question["about"])), file=answers, flush=True)


if __name__ == "__main__":
    main()

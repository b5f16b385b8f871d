"""Findings as people read them: a line each, the hosts that found the same together, and what mends it below."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from genesis_ds.hooks.write.console import is_terminal
from genesis_ds.hosts.finding import Finding, Status

STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "fails": "bold red"}
NO_LIMIT = 10_000
"""Columns where the output is no terminal's: a finding is a line then, which grep finds."""
FEW = 4
"""Hosts that are named one by one."""


def can_start(findings: Sequence[Finding]) -> bool:
    """Return whether a run can start: nothing fails."""
    return all(finding.status != "fails" for finding in findings)


def as_json(title: Mapping[str, str], sections: Mapping[str, Sequence[Finding]]) -> str:
    """Return the findings as JSON."""
    findings = [asdict(finding) | {"section": section} for section, its in sections.items() for finding in its]
    every = [finding for its in sections.values() for finding in its]
    return json.dumps({"can_start": can_start(every), **title, "findings": findings}, indent=1)


def show(title: str, sections: Mapping[str, Sequence[Finding]], hosts: Sequence[str]) -> None:
    """Print the findings by section, and what comes of them."""
    live = is_terminal()
    screen = Console(highlight=False, markup=False, emoji=False, width=None if live else NO_LIMIT, no_color=not live)
    grouped = {name: together(its, hosts) for name, its in sections.items()}
    width = max(len(finding.check) for its in grouped.values() for finding in its)
    lines = [Text(title, "bold")]
    for name, its in grouped.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(width=width, no_wrap=True)
        table.add_column(width=len("warning"), no_wrap=True)
        table.add_column(overflow="fold")
        for finding in its:
            where = f"{in_words(finding.hosts, hosts)}: " if finding.hosts else ""
            table.add_row(finding.check, Text(finding.status, STYLES[finding.status]), where + finding.said)
            if finding.mend and finding.status != "ok":
                table.add_row("", "", Text(f"> {finding.mend}", "cyan"))
        screen.print(*lines, Text(f"\n{name}", "dim"), sep="\n")
        screen.print(Padding(table, (0, 0, 0, 2), expand=False))
        lines = []
    screen.print(verdict([finding for its in grouped.values() for finding in its]), soft_wrap=True)


def together(findings: Sequence[Finding], hosts: Sequence[str]) -> list[Finding]:
    """Return the findings with those of one check that say the same as one, in the order of the checks."""
    found: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for finding in findings:
        found[finding.check, finding.status, finding.said, finding.mend].extend(finding.hosts)
    order = list(dict.fromkeys(finding.check for finding in findings))
    return [
        Finding(status, said, mend, check, tuple(its))  # type: ignore[arg-type]
        for (check, status, said, mend), its in sorted(found.items(), key=lambda entry: order.index(entry[0][0]))
    ]


def in_words(some: Sequence[str], hosts: Sequence[str]) -> str:
    """Return hosts by name, or how many they are."""
    if len(some) == len(hosts) > 1:
        return f"all {len(hosts)} hosts" if len(hosts) > 2 else "both hosts"
    more = f" and {len(some) - FEW} more" if len(some) > FEW else ""
    return f"{', '.join(some[:FEW])}{more}"


def verdict(findings: Sequence[Finding]) -> Text:
    """Return what comes of it, in a line."""
    failed = [finding for finding in findings if finding.status == "fails"]
    warned = sum(finding.status == "warning" for finding in findings)
    warnings = f"{warned} warning{'s' * (warned > 1)}" if warned else "no warnings"
    if failed:
        names = ", ".join(dict.fromkeys(finding.check for finding in failed))
        return Text(f"\na run cannot start: {names}; {warnings}", STYLES["fails"])
    return Text(f"\na run can start; {warnings}", STYLES["warning" if warned else "ok"])

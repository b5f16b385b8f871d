"""Findings as people read them: a line each, the hosts that found the same together, and what mends it below."""

import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby

from rich.text import Text

from genesis_ds.hooks.write.console import is_terminal, screen
from genesis_ds.hosts.finding import Finding, Status

STYLES: dict[Status, str] = {"ok": "green", "warning": "bold yellow", "fails": "bold red"}
FEW = 4
"""Hosts that are named one by one, and lines of a check on which all is well."""


def can_start(findings: Sequence[Finding]) -> bool:
    """Return whether a run can start: nothing fails."""
    return all(finding.status != "fails" for finding in findings)


def as_json(about: Mapping[str, str], findings: Sequence[tuple[str, Finding]]) -> str:
    """Return the findings, each after the name of its section, as JSON, after what they are about."""
    every = [{"section": section} | asdict(finding) for section, finding in findings]
    can = can_start([finding for _, finding in findings])
    return json.dumps({"can_start": can, **about, "findings": every}, indent=1)


def show(title: str, findings: Iterable[tuple[str, Finding]], hosts: Sequence[str], column: int) -> list[Finding]:
    """Print findings, each after the name of its section, as they come, and what comes of them; return them.

    hosts: all of them, by name; with some, all findings are awaited. column: the width of the checks' names. On a
    terminal long lines are wrapped; otherwise a finding stays a line, as for grep.
    """
    live = is_terminal()
    on = screen(live)

    def put(*lines: Text) -> None:
        for line in lines:
            on.print(line, soft_wrap=True)
        sys.stdout.flush()

    put(Text(title, "bold"))
    said: list[Finding] = []
    for name, of_section in groupby(findings, key=lambda found: found[0]):
        put(Text(), Text(name, "dim"))
        its = (finding for _, finding in of_section)
        for finding in together(list(its), hosts) if hosts else its:
            put(*_lines(finding, column, hosts, on.width if live else None))
            said.append(finding)
    put(Text(), verdict(said))
    return said


def _lines(finding: Finding, column: int, hosts: Sequence[str], width: int | None) -> Iterator[Text]:
    """Yield the lines of a finding. column: the width of the checks' names. width: of all; None: not limited."""
    where = f"{in_words(finding.hosts)}: " if finding.hosts and len(finding.hosts) < len(hosts) else ""
    indent = column + len("warning") + 6
    said = _wrapped(where + finding.said.removeprefix(where), width and width - indent)
    first = Text(f"  {finding.check:<{column}}  ").append(f"{finding.status:<7}", STYLES[finding.status])
    yield first.append(f"  {said[0]}")
    yield from (Text(" " * indent + line) for line in said[1:])
    if finding.mend:
        mend = _wrapped(finding.mend, width and width - indent - 3)
        yield from (Text(" " * indent + ("   " if n else "-> ") + line, "cyan") for n, line in enumerate(mend))


def _wrapped(text: str, width: int | None) -> list[str]:
    """Return the lines of a text; no word of it is broken, so that a path or a command can be copied."""
    if width is None:
        return [text]
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)


def together(findings: Sequence[Finding], hosts: Sequence[str]) -> list[Finding]:
    """Return the findings with those of one check that say the same as one, in the order of the checks.

    Of a check on which all is well, though hosts say more than FEW different things, the first is shown for all.
    """
    same: dict[Finding, list[str]] = defaultdict(list)
    for finding in findings:
        same[replace(finding, hosts=())].extend(finding.hosts)
    result = []
    for check in dict.fromkeys(finding.check for finding in findings):
        its = [replace(finding, hosts=tuple(names)) for finding, names in same.items() if finding.check == check]
        if len(its) > FEW and all(finding.status == "ok" for finding in its):
            its = [replace(its[0], hosts=(), said=f"{its[0].said} ({in_words(its[0].hosts)}; {len(hosts)} hosts)")]
        result += its
    return result


def in_words(names: Sequence[str]) -> str:
    """Return the names of hosts, of many the first and how many they are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more}"


def verdict(findings: Sequence[Finding]) -> Text:
    """Return what comes of it, in a line."""
    failed = dict.fromkeys(finding.check for finding in findings if finding.status == "fails")
    warned = dict.fromkeys(finding.check for finding in findings if finding.status == "warning")
    warnings = f"warnings: {', '.join(warned)}" if warned else "no warnings"
    if failed:
        return Text(f"a run cannot start: {', '.join(failed)}; {warnings}", STYLES["fails"])
    return Text(f"a run can start; {warnings}", STYLES["warning" if warned else "ok"])

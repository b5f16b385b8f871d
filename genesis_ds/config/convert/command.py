"""`genesis-ds config convert`: the table, the YAML, and the commands that go on from there."""

import json
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from genesis_ds.config.convert.conversion import HEADER, Conversion, convert
from genesis_ds.config.convert.earlier_toml import read_toml
from genesis_ds.config.convert.training import CORPUS, DS_CONFIG
from genesis_ds.disk import require_alike, write_text
from genesis_ds.errors import UserError, beginning, shown

WIDTH = 120
"""Columns of the table."""
LONGEST_VALUE = 20
"""Columns of a value that are shown."""


def convert_file(path: str, output: Path, given: Sequence[str], *, strict: bool) -> tuple[list[str], bool]:
    """Convert a TOML to a YAML; return what to print, a line each, and whether it was written.

    given: NAME=VALUE for placeholders. strict: write nothing where a key has no counterpart. Raises UserError for a
    file that cannot be converted, and where anything else is in the output's place.
    """
    require_alike(output, HEADER.encode())
    conversion = convert(read_toml(path, given), output.stem)
    lines = list(_table(conversion))
    if n_lost := len(conversion.lost):
        keys = "1 key has" if n_lost == 1 else f"{n_lost} keys have"
        lines += ["", f"{keys} no counterpart" + (f"; with --strict {output} is not written" if strict else "")]
    if strict and n_lost:
        return lines, False
    if output.exists() and output.read_text(encoding="utf-8") != conversion.yaml():
        raise UserError(
            f"--output: {output} exists and holds another run, or this one edited; remove it, or choose another"
        )
    write_text(output, conversion.yaml())
    return [*lines, "", str(output), *_next(conversion, path, output)], True


def _table(conversion: Conversion) -> Iterator[str]:
    keys = [row.key for row in conversion.rows]
    width = max(map(len, keys), default=0) + 2
    yield f"{'key':<{width}}{'value':<{LONGEST_VALUE + 2}}what it becomes"
    for row in conversion.rows:
        value = "not given" if row.value is None else json.dumps(row.value, ensure_ascii=False, default=str)
        value = beginning(value, LONGEST_VALUE)
        left = f"{shown(row.key):<{width}}{value:<{LONGEST_VALUE + 2}}"
        about = textwrap.wrap(shown(row.outcome), max(40, WIDTH - len(left)), break_on_hyphens=False)
        yield left + about[0]
        yield from (" " * len(left) + line for line in about[1:])


def _next(conversion: Conversion, path: str, output: Path) -> Iterator[str]:
    run, file = conversion.run, shlex.quote(str(output))
    if bible_dir := conversion.toml.get("bible_dir"):
        yield f"  genesis-ds corpus import {shlex.quote(str(bible_dir))} --output {CORPUS}"
    if run.tokenizer.path:
        yield f"  genesis-ds tokenizer train RECIPE.yaml    (its output: {run.tokenizer.path})"
    yield f"  genesis-ds memory --config {file} --ds_config {DS_CONFIG}"
    yield f"  genesis-ds train --config {file} --ds_config {DS_CONFIG}"
    if conversion.flags:
        yield " ".join(["  genesis-ds generate", f"{run.output_dir}/{shlex.quote(run.name)}", *conversion.flags])

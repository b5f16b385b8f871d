"""The one reader of files that people write: a run's YAML, a recipe, a ds_config, a list of topics.

YAML is read by version 1.2's core schema, in which `no` and 2:30 are texts and 0100 is a hundred. What hides a value or
makes two of one is refused, in YAML and JSON alike: a repeated key, a key without a value, an anchor, a tag, a number
that is not finite. Size, depth and digits have limits, so that no file can make a loop or break a parser.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genesis_ds.errors import UserError, named_by_user, require_file

LARGEST_FILE = 2**20
"""Bytes of a YAML or JSON file: a thousand times the longest that is shipped."""
DEEPEST = 100
"""Levels of lists and mappings within each other."""
MOST_DIGITS = 30
"""Digits of a whole number: any that has a meaning here, and none that takes time to compute with."""
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class YamlFile:
    """The values of a YAML file, and the lines they stand in."""

    path: str
    values: dict[str, Any]
    lines: dict[str, int]
    """Dotted key -> the line it stands in."""

    def where(self, key: str) -> str:
        """Return the file, with the line of the key where it is in the file."""
        return f"{self.path}: line {self.lines[key]}" if key in self.lines else self.path


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and what is refused. Every refusal is a YAMLError."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse here what the parser knows and the tree of nodes does not show any more."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("anchors and aliases (& and *) are not read; write the value out, or quote it", event)
        if event.tag is not None:
            raise _Refused("tags (!) are not read; leave it out, or quote the value", event)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "" and parent is not None:
            key = index if isinstance(index, yaml.ScalarNode) else None
            what = f"'{key.value}'" if key else "an entry"
            raise _Refused(f"{what} has no value; give it one, or leave the line out", key or event)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _Refused(f"more than {DEEPEST} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are unique, and text as they stand."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("a key must be plain text", key)
            if key.value in first:
                lines = f"lines {first[key.value]} and {_line(key)}"
                raise _Refused(f"'{key.value}' stands twice, {lines}; keep one of them", key)
            first[key.value] = _line(key)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def read_text(path: str | Path, what: str = "", remedy: str = "check the path", largest: int = LARGEST_FILE) -> str:
    """Read the text of a UTF-8 file that the user has named, without a byte-order mark. Raises UserError.

    what: the key or flag that names it. largest: bytes.
    """
    path = expanded(str(path), what)
    require_file(path, what)
    with named_by_user(path, what, remedy), open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise UserError(f"{path}: larger than {largest:,} bytes, which no file of this kind is; check the path")
    try:
        return re.sub("\r\n?", "\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def load_yaml(path: str | Path, what: str = "", remedy: str = "check the path") -> YamlFile:
    """Read the mapping in a YAML file; an empty file is an empty one. Raises UserError, with the line."""
    text, node = read_text(path, what, remedy), None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except _Refused as error:
        key = _key_of(node, error.at) if node else ""
        raise UserError(f"{path}: line {_line(error.at)}: {f'{key}: ' * bool(key)}{error}") from None
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{path}: {f'line {mark.line + 1}: ' if mark else ''}not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: must hold lines of `key: value`, and holds a {type(values).__name__}")
    return YamlFile(str(path), values, dict(_lines(node)) if node is not None else {})


def load_json(path: str | Path, what: str = "", remedy: str = "check the path") -> dict[str, Any]:
    """Read the object in a JSON file. Raises UserError, with the line."""
    text = read_text(path, what, remedy)
    try:
        repeated = _scan_json(text)
        loaded = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, column {error.colno}"
        hint = "JSON allows no comments and no trailing commas"
        raise UserError(f"{path}: {line}: not valid JSON: {error.msg}; {hint}") from None
    except _Limit as error:
        raise UserError(f"{path}: {error}") from None
    if repeated:
        raise UserError(f"{path}: {repeated}")
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds {type(loaded).__name__}, not a JSON object; write {{...}}")
    return loaded


def dump_yaml(data: Any) -> str:
    """Return the data as a YAML that `load_yaml`, and any other reader of YAML, gives back as they are."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def expanded(path: str, what: str = "") -> str:
    """Return a path as the user gave it, with ~ as the home directory. Raises UserError for one that cannot be."""
    of = f"{what}: " if what else ""
    if not path:
        raise UserError(f"{of}the path is empty; is a variable unset?")
    if "\0" in path:
        raise UserError(f"{of}{path}: a path has no character NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{of}{path}: the locale's encoding ({error.encoding}) has no such path; set LC_ALL=C.UTF-8"
        ) from None
    if not path.startswith("~"):
        return path
    home = os.path.expanduser(path)
    if home.startswith("~") or not os.environ.get("HOME", "~"):
        raise UserError(f"{of}{path}: no such home directory is known (HOME); write the whole path, or ./{path}")
    return home


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Refused(yaml.YAMLError):
    """Valid YAML that is not read."""

    def __init__(self, problem: str, at: yaml.Event | yaml.Node) -> None:
        super().__init__(problem)
        self.at = at


class _Limit(ValueError):
    """A value that is not read, in either format."""


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))):
        raise _Limit(f"{text} is not a finite number; give one that is")
    return number


def _integer(text: str, base: int = 10) -> int:
    if len(text) > MOST_DIGITS + 2:
        raise _Limit(f"{text} has more than {MOST_DIGITS} digits")
    return int(text.replace("_", ""), base)


def _number(text: str) -> int | float:
    """Parse a number of YAML. 1e12 is a whole one, as people mean it."""
    if re.fullmatch(r"[-+]?[\d_]+", text):
        return _integer(text)
    if re.match(r"0[xo]", text):
        return _integer(text, 0)
    if power := re.fullmatch(r"([-+]?\d+)[eE]\+?(\d\d?)", text):
        return _integer(power[1] + "0" * int(power[2])) if int(power[2]) < MOST_DIGITS else _finite(text)
    return _finite(text)


def _construct_number(loader: Loader, node: yaml.ScalarNode) -> int | float:
    try:
        return _number(node.value)
    except _Limit as error:
        raise _Refused(str(error), node) from None


def _line(at: Any) -> int:
    return int(at.start_mark.line) + 1


def _lines(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        yield prefix + key.value, _line(key)
        if isinstance(value, yaml.MappingNode):
            yield from _lines(value, f"{prefix}{key.value}.")


def _key_of(node: yaml.Node, at: yaml.Event | yaml.Node, prefix: str = "") -> str:
    """Return the dotted key of a value, or of the list that it is in; empty where it has none."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if value is at or (isinstance(value, yaml.SequenceNode) and any(part is at for part in value.value)):
            return f"{prefix}{key.value}"
        if found := _key_of(value, at, f"{prefix}{key.value}."):
            return found
    return ""


def _scan_json(text: str) -> str | None:
    """Return what to say of the first repeated key, or None. Raises _Limit for too deep a file, JSONDecodeError."""
    open_objects: list[dict[str, int]] = []
    repeated, line, counted = None, 1, 0
    for token in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{\[]|[}\]]', text, re.DOTALL):
        line, counted = line + text.count("\n", counted, token.start()), token.start()
        if token[0] in ("{", "["):
            open_objects.append({})
            if len(open_objects) > DEEPEST:
                raise _Limit(f"line {line}: more than {DEEPEST} levels deep")
        elif token[0] in ("}", "]"):
            del open_objects[-1:]
        elif token[2] and open_objects:
            key = json.loads(token[1], strict=False)
            if key in open_objects[-1]:
                lines = f"lines {open_objects[-1][key]} and {line}"
                repeated = repeated or f"the key '{key}' stands twice in one object, {lines}; keep one of them"
            open_objects[-1][key] = line
    return repeated


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _starts in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL", "~nN"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    for _class in (Loader, _Dumper):
        _class.add_implicit_resolver(_PREFIX + _tag, re.compile(rf"(?:{_pattern})\Z"), list(_starts))
for _tag in ("int", "float"):
    Loader.add_constructor(_PREFIX + _tag, _construct_number)

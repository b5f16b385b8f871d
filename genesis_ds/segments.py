"""The records of a run on the disk: an open file of JSON lines, and closed segments that are gzipped.

metrics.jsonl                        records since the last closed segment
metrics/step-00050000.jsonl.gz       those up to this step, since the segment before
metrics/step-00050000.index.jsonl.gz the same, decimated: fewer records with fewer values, read in the same way

A segment is put in its place before its records leave the open file, so that a kill leaves some in both; readers and
the next start take them from the segment.
"""

import gzip
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf, log10, nan
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from genesis_ds import metrics
from genesis_ds.disk import replacing, tidy_away, warn

STEPS = 50_000
"""Steps of a segment."""
BUCKETS = 10
"""Parts of a segment, of each of which the index has the lowest and the highest value of every measure."""
PER_DECADE = 10
"""Parts from each power of ten of steps to the next as well, for an axis of log steps."""
Record = dict[str, Any]
Line = tuple[bytes, Record | None]
"""A line without its end, and its record; None where it is none."""


def closed_segments(path: Path) -> dict[int, Path]:
    """Return the last step of each closed segment of a metrics file -> its file, in their order."""
    found = {int(at[1]): file for file in _folder(path).glob("step-*") if (at := _SEGMENT.fullmatch(file.name))}
    return dict(sorted(found.items()))


def read_records(path: Path, decimated: bool = False) -> Iterator[Record]:
    """Yield the records of a metrics file and its segments; nan stands for null.

    decimated: of closed segments, from the index: of every measure what is lowest and highest in each 5,000 steps, and
    in each tenth of a decade, and the last two of the segment; all events and texts, of samples the last of each such
    part. Warns of lines that are no records.
    """
    for _, record in read_numbered(path, decimated):
        yield record


def read_numbered(path: Path, decimated: bool = False) -> Iterator[tuple[str, Record]]:
    """Yield what read_records does, each record with its file and line."""
    content = path.read_bytes() if path.exists() else b""  # before the segments: it may be closed just now
    segments = closed_segments(path)
    for segment in segments.values():
        index = _index_of(segment)
        file = index if decimated and index.exists() else segment
        yield from _numbered(file, unzipped(file))
    closed = max(segments, default=0)
    for where, record in _numbered(path, split(content)):
        if record["global_step"] > closed:
            yield where, record


def _numbered(path: Path, lines: Iterable[Line]) -> Iterator[tuple[str, Record]]:
    damaged = []
    for number, (_, record) in enumerate(lines, 1):
        if record is None:
            damaged.append(number)
        else:
            yield f"{path}, line {number}", record
    if damaged:
        warn(f"{path}: {len(damaged)} lines are no records and left out, such as line {damaged[0]}")


def split(content: bytes) -> Iterator[Line]:
    """Yield the whole lines of a file. A last line that a crash cut short is left out."""
    # By bytes, and not splitlines: a sample may hold U+0085 or U+2028, which it takes for line ends as well.
    for line in content.split(b"\n")[:-1]:
        yield line, parsed(line)


def unzipped(segment: Path) -> Iterator[Line]:
    """Yield the lines of a closed segment or its index; where it is damaged those before, with a warning."""
    try:
        with gzip.open(segment) as file:
            for line in file:
                yield line.rstrip(b"\n"), parsed(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        warn(f"{segment}: damaged ({error}); its records from there on are left out")


def parsed(line: bytes) -> Record | None:
    """Return the record of a line; None where it is none."""
    try:
        record = from_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or type(record.get("global_step")) is not int:
        return None
    return {name: nan if value is None else value for name, value in record.items()}


def close_segment(path: Path, end: int, to_line: Callable[[Record], bytes]) -> None:
    """Take the records up to a step out of the open file into a segment. Raises as `replacing` does.

    to_line: makes a line of a record.
    """
    closed = max(closed_segments(path), default=0)
    lines = [(line, record) for line, record in split(path.read_bytes()) if record and record["global_step"] > closed]
    now = [(line, record) for line, record in lines if record["global_step"] <= end]
    if now:
        segment = _folder(path) / f"step-{end:08}.jsonl.gz"
        _zip(_index_of(segment), (to_line(record) for record in _decimated([record for _, record in now], end)))
        _zip(segment, (line + b"\n" for line, _ in now))
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line, record in lines if record["global_step"] > end))


def cut(path: Path, last_step: int) -> None:
    """Let a metrics file end at a step: later records are dropped, a segment with some of them is opened again."""
    segments = closed_segments(path)
    closed = max((end for end in segments if end <= last_step), default=0)
    reopened = [segment for end, segment in segments.items() if end > last_step]
    lines = unzipped(reopened[0]) if reopened else split(path.read_bytes() if path.exists() else b"")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for line, record in lines:
            if record and closed < record["global_step"] <= last_step:
                file.write(line + b"\n")
    for segment in reversed(reopened):
        tidy_away(segment)
        tidy_away(_index_of(segment))


def _decimated(records: list[Record], end: int) -> Iterator[Record]:
    """Yield what the index has of a segment's records."""
    kept: list[set[str]] = [set() for _ in records]
    extremes: dict[tuple[str, tuple[int, int]], list[tuple[float, int]]] = {}
    last: dict[str, deque[int]] = {}
    width = STEPS // BUCKETS
    for number, record in enumerate(records):
        step = record["global_step"]
        bucket = (end - step) // width, int(PER_DECADE * log10(max(1, step)))
        for name, value in record.items():
            if name == "global_step":
                continue
            if isinstance(value, int | float):
                low, high = extremes.setdefault((name, bucket), [(inf, number), (-inf, number)])
                extremes[name, bucket] = [min(low, (value, number)), max(high, (value, number))]
                last.setdefault(name, deque(maxlen=2)).append(number)
            elif name.startswith(metrics.sample("")):
                extremes[name, bucket] = [(0.0, number)]
            else:
                kept[number].add(name)
    for (name, _), found in extremes.items():
        for _, number in found:
            kept[number].add(name)
    for name, numbers in last.items():
        for number in numbers:
            kept[number].add(name)
    for record, names in zip(records, kept, strict=True):
        if names:
            yield {"global_step": record["global_step"]} | {name: record[name] for name in record if name in names}


def _zip(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path) as temporary, gzip.GzipFile(temporary, "wb", mtime=0) as file:
        file.writelines(lines)


def _folder(path: Path) -> Path:
    return path.with_suffix("")


def _index_of(segment: Path) -> Path:
    return segment.with_name(segment.name.replace(".jsonl", ".index.jsonl"))


_SEGMENT = re.compile(r"step-(\d+)\.jsonl\.gz")

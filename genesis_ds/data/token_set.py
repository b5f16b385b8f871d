"""Token sets: a corpus, a tokenizer and a split compiled to memory-mapped streams of token ids.

A stream holds one tier of one language: its chapters in canonical order, each `bos verse \\n verse ... verse eos`.
Because a stream never mixes tiers, nothing cut from it crosses a split boundary.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus import splits, storage, verses
from genesis_ds.corpus.splits import TIERS, Split, split_verses
from genesis_ds.corpus.storage import StoredCorpus
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.disk import FileRecord, NotWritten, hash_file, replacing, warn, write_text
from genesis_ds.errors import UserError, named_by_user, nearest
from genesis_ds.stored import program, read_stored
from genesis_ds.tokenizer import Tokenizer

FORMAT = 1
ANEW = "it is compiled anew by the next run that needs it"
MANIFEST, BYTE_LENGTHS = "manifest.json", "byte_lengths.npy"
KEPT_TIERS = [tier for tier in TIERS if tier != "dropped"]
VALIDATION_TIERS = [tier for tier in KEPT_TIERS if tier != "train"]


@dataclass(frozen=True)
class Stream:
    """The token ids of one tier in one language, and where each verse lies in them."""

    tokens: np.ndarray
    """Ids of the whole stream, memory-mapped, shape [N]."""
    verse_ids: np.ndarray
    """int32, shape [n_verses], ascending."""
    starts: np.ndarray
    """int64, shape [n_verses]: the index of each verse's first token."""
    lengths: np.ndarray
    """int32, shape [n_verses]: tokens of each verse, separators not counted."""


@dataclass(frozen=True)
class TokenSetManifest:
    """The content of manifest.json."""

    fingerprint: str
    corpus: str
    """The fingerprint of the corpus."""
    languages: list[str]
    tokens: dict[str, dict[str, int]]
    """Language -> tier -> number of tokens."""
    files: dict[str, FileRecord]
    written_by: str
    format: int = FORMAT


@dataclass(frozen=True)
class TokenSet:
    """A compiled token set on disk."""

    directory: Path
    manifest: TokenSetManifest

    @property
    def languages(self) -> list[str]:
        """The labels of its languages: BCP-47, or the translation's name where a language has several."""
        return self.manifest.languages

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that determines the tokens."""
        return self.manifest.fingerprint

    @cached_property
    def byte_lengths(self) -> NDArray[np.int32]:
        """int32 of shape [V]: UTF-8 bytes each token id stands for."""
        lengths: NDArray[np.int32] = np.load(self.directory / BYTE_LENGTHS)
        return lengths

    def stream(self, tier: str, language: str) -> Stream:
        """Open one tier of one language."""
        stem = self.directory / f"{language}.{tier}"
        verses = np.load(f"{stem}.verses.npz")
        tokens = np.load(f"{stem}.tokens.npy", mmap_mode="r")
        return Stream(tokens, verses["verse_ids"], verses["starts"], verses["lengths"])


def token_set_of(
    corpus: StoredCorpus, languages: Sequence[str], *, tokenizer: Tokenizer, split_seed: int, root: Path
) -> TokenSet:
    """Return the token set of a corpus on the disk, from its bytes alone where it was compiled from these before.

    Otherwise the corpus is read and split, which takes a quarter of a minute for 100 translations, and the token set is
    marked with what it was made of. Raises as `load_corpus` and `compile_token_set` do.
    """
    mark = _mark(corpus, languages, tokenizer, split_seed)
    for path in root.glob(f"*/{mark}"):
        with suppress(UserError):
            return open_token_set(path.parent)
    whole = corpus.load()
    split = split_verses(whole, split_seed)
    token_set = compile_token_set(whole, languages, tokenizer, split=split, root=root, mark=mark)
    try:
        if not (marked := token_set.directory / mark).exists():
            write_text(marked, "")
    except NotWritten as error:
        warn(f"{error}; every process of a run reads the whole corpus itself")
    return token_set


def compile_token_set(
    corpus: Corpus,
    languages: Sequence[str],
    tokenizer: Tokenizer,
    split: Split,
    root: Path,
    *,
    mark: str | None = None,
) -> TokenSet:
    """Return the token set of these inputs under `root`; it is made where it is absent or damaged, whole or not at all.

    Every byte of one that is there is compared with its manifest. mark: an empty file of this name comes with one that
    is made: another process may put its own in this one's place at any time. Raises UserError for a language the corpus
    does not hold, or no training text.
    """
    chosen = select_translations(corpus.translations, languages)
    fingerprint = _fingerprint(corpus, chosen, tokenizer, split)
    directory = root / fingerprint[:16]
    with named_by_user(directory, "data.token_sets"):
        if directory.exists():
            try:
                return open_token_set(directory)
            except UserError as error:
                warn(str(error))
        with replacing(directory) as temporary:
            temporary.mkdir()
            if mark:
                (temporary / mark).touch()
            manifest = TokenSetManifest(
                fingerprint=fingerprint,
                corpus=corpus.fingerprint,
                languages=list(chosen),
                tokens=_write(temporary, chosen, tokenizer, split),
                files={name: hash_file(temporary / name) for name in _names(list(chosen))},
                written_by=program(),
            )
            write_text(temporary / MANIFEST, json.dumps(asdict(manifest), indent=1))
    return open_token_set(directory)


def count_training_tokens(corpus: Corpus, languages: Sequence[str], tokenizer: Tokenizer, split: Split) -> int:
    """Return the training tokens that the token set of these inputs has, without making it.

    Raises UserError for a language the corpus does not hold.
    """
    chosen = select_translations(corpus.translations, languages).values()
    return sum(len(build_stream(each, split.rows("train", each), tokenizer).tokens) for each in chosen)


def open_token_set(directory: Path) -> TokenSet:
    """Open a token set compiled earlier, every byte of it checked. Raises UserError for a damaged one."""
    manifest = read_stored(directory / MANIFEST, TokenSetManifest, ANEW, FORMAT)
    expected = {MANIFEST, *_names(manifest.languages)}
    if wrong := expected.symmetric_difference({MANIFEST, *manifest.files}):
        raise UserError(f"{directory / MANIFEST}: files: {min(wrong)} is missing or does not belong there; {ANEW}")
    for name, record in manifest.files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != record.nbytes or hash_file(path) != record:
            raise UserError(f"{path}: missing, or changed since it was written; {ANEW}")
    return TokenSet(directory, manifest)


def token_sets_of(corpus: Corpus, root: Path) -> list[Path]:
    """Return the token sets under `root` that were compiled from a corpus."""
    found = []
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        with suppress(UserError):
            if read_stored(path, dict[str, Any], "").get("corpus") == corpus.fingerprint:
                found.append(path.parent)
    return found


class Named(Protocol):
    """A translation, or what stands for one."""

    @property
    def name(self) -> str: ...
    @property
    def language(self) -> str: ...


N = TypeVar("N", bound=Named)


def select_translations(translations: Iterable[N], languages: Sequence[str]) -> dict[str, N]:
    """Return {label: translation} of the wanted languages or translations, of all for none. Raises UserError."""
    known: dict[str, list[N]] = {}
    for translation in translations:
        for label in {translation.language, translation.name}:
            known.setdefault(label, []).append(translation)
    for wanted in languages:
        if wanted not in known:
            raise UserError(f"data.languages: the corpus holds no '{wanted}'; {nearest(wanted, known)}; [] takes all")
    chosen = [t for wanted in languages for t in known[wanted]] or list(translations)
    return {t.language if len(known[t.language]) == 1 else t.name: t for t in chosen}


def _mark(corpus: StoredCorpus, languages: Sequence[str], tokenizer: Tokenizer, split_seed: int) -> str:
    """Return the name of the file that says of a token set which bytes it was made of, and by which rules."""
    rules = "".join(map(inspect.getsource, (splits, storage, verses)))
    made_of = [FORMAT, program(), rules, corpus.hash(), list(languages), tokenizer.fingerprint, split_seed]
    return f"made_of_{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"


def _fingerprint(corpus: Corpus, chosen: dict[str, Translation], tokenizer: Tokenizer, split: Split) -> str:
    digest = hashlib.sha256()
    parts = [FORMAT, corpus.fingerprint, list(chosen), tokenizer.fingerprint]
    digest.update(json.dumps(parts).encode())
    digest.update(split.verse_ids.tobytes())
    digest.update(split.tiers.tobytes())
    return digest.hexdigest()


def _names(languages: Sequence[str]) -> list[str]:
    """Return the names of the files of arrays."""
    streams = [f"{language}.{tier}" for language in languages for tier in KEPT_TIERS]
    return [BYTE_LENGTHS, *(f"{stream}.{array}" for stream in streams for array in ("tokens.npy", "verses.npz"))]


def _write(
    directory: Path, chosen: dict[str, Translation], tokenizer: Tokenizer, split: Split
) -> dict[str, dict[str, int]]:
    """Write the files of arrays. Return {language: {tier: tokens}}. Raises UserError without training text."""
    sizes: dict[str, dict[str, int]] = {}
    for language, translation in chosen.items():
        for tier in KEPT_TIERS:
            stream = build_stream(translation, split.rows(tier, translation), tokenizer)
            np.save(directory / f"{language}.{tier}.tokens.npy", stream.tokens)
            np.savez(
                directory / f"{language}.{tier}.verses.npz",
                verse_ids=stream.verse_ids,
                starts=stream.starts,
                lengths=stream.lengths,
            )
            sizes.setdefault(language, {})[tier] = len(stream.tokens)
    if not any(size["train"] for size in sizes.values()):
        raise UserError("data.corpus: the chosen languages have no training text; see `genesis-ds corpus inspect`")
    np.save(directory / BYTE_LENGTHS, tokenizer.byte_lengths)
    return sizes


def build_stream(translation: Translation, rows: NDArray[np.int64], tokenizer: Tokenizer) -> Stream:
    """Return the stream of the verses in some rows of a translation, ascending, which have text."""
    verses = tokenizer.encode_many([translation.texts[i] for i in rows])
    separator = tokenizer.encode_many(["\n"])[0]
    bos, eos = (np.array([i], dtype=separator.dtype) for i in (tokenizer.bos_id, tokenizer.eos_id))
    verse_ids = translation.verse_ids[rows]
    chapters = verse_ids // 1000
    pieces: list[np.ndarray] = []
    starts = np.zeros(len(rows), dtype=np.int64)
    position = 0
    for n, verse in enumerate(verses):
        opens_chapter = n == 0 or chapters[n] != chapters[n - 1]
        closing = [eos] if opens_chapter and n else []
        before = [*closing, bos] if opens_chapter else [separator]
        starts[n] = position + sum(map(len, before))
        pieces += [*before, verse]
        position = starts[n] + len(verse)
    tokens = np.concatenate([*pieces, eos]) if len(rows) else np.empty(0, dtype=separator.dtype)
    lengths = np.array([len(verse) for verse in verses], dtype=np.int32)
    return Stream(tokens, verse_ids, starts, lengths)

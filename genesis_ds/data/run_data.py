"""What a run learns from: text, or a table of arithmetic."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from genesis_ds.config import ArithmeticConfig, RunConfig
from genesis_ds.corpus.readers.openbible import read_cross_references
from genesis_ds.corpus.storage import StoredCorpus, open_corpus
from genesis_ds.corpus.verses import CrossReferences, Translation
from genesis_ds.data.arithmetic import ArithmeticTable, arithmetic_table
from genesis_ds.data.coverage import chosen_of
from genesis_ds.data.token_set import TokenSet, select_translations, token_set_of
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Text:
    """A corpus, split and tokenized."""

    tokenizer: Tokenizer
    token_set: TokenSet
    links: CrossReferences
    """Of the corpus and of the user's file."""
    notices: list[str] = field(default_factory=list)
    """What the user should know of how it was read."""
    languages: str = ""
    """Which languages of which corpus it has, in words."""
    rewordings: Mapping[str, Translation] = field(default_factory=dict)
    """Language -> another translation of it, of which nothing is trained on; the first that the corpus has."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {
            "tokenizer (fingerprint)": self.tokenizer.fingerprint[:16],
            "data (fingerprint)": self.token_set.fingerprint[:16],
            "cross-references (fingerprint)": self.links.fingerprint[:16],
        }

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the run directory keeps."""
        return {"token_set": self.token_set.fingerprint, "tokenizer": self.tokenizer.fingerprint}


@dataclass(frozen=True)
class Arithmetic:
    """All pairs of residues and their answers."""

    config: ArithmeticConfig
    table: ArithmeticTable

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {f"arithmetic.{key}": value for key, value in dataclasses.asdict(self.config).items()}

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the run directory keeps."""
        return {"arithmetic": self.table.fingerprint}


RunData = Text | Arithmetic


def prepare_data(run: RunConfig) -> RunData:
    """Return the data of a run. Text is compiled into a token set at the first call, and read at the others."""
    config = run.arithmetic
    if config.modulus:
        table = arithmetic_table(config.modulus, config.operation, config.train_share, config.split_seed)
        return Arithmetic(config, table)
    tokenizer = load_tokenizer(run.tokenizer.kind, run.tokenizer.path)
    try:
        corpus = open_corpus(run.data.corpus)
    except UserError as error:
        raise UserError(f"data.corpus: {error}") from error
    token_set = token_set_of(
        corpus,
        run.data.languages,
        tokenizer=tokenizer,
        split_seed=run.data.split_seed,
        root=Path(run.data.token_sets),
    )
    languages = chosen_of(token_set.languages, select_translations(corpus.translations, []), run.data.corpus)
    rewordings = _rewordings(corpus, run.data.languages) if run.memorisation.second_translation else {}
    text = partial(Text, tokenizer, token_set, languages=languages, rewordings=rewordings)
    links = corpus.cross_references()
    if run.data.cross_references is None:
        return text(links)
    try:
        more, notices = read_cross_references(Path(run.data.cross_references), corpus.load().verse_ids)
    except UserError as error:
        raise UserError(f"data.cross_references: {error}") from error
    return text(links + more, notices)


def _rewordings(corpus: StoredCorpus, languages: Sequence[str]) -> dict[str, Translation]:
    """Return, for each language of a run, the corpus's first translation of it that the run does not train on."""
    trained = select_translations(corpus.translations, languages)
    others = [other for other in corpus.translations if other.name not in {each.name for each in trained.values()}]
    same = {label: [other for other in others if other.language == each.language] for label, each in trained.items()}
    return {label: corpus.translation(found[0]) for label, found in same.items() if found}

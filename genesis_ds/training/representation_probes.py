"""The verses on which a run of text probes its representations, and why it does not where it cannot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genesis_ds.config import ClusteringConfig
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.corpus.concepts import concepts_by_keyword, read_topics
from genesis_ds.data.aligned_verses import (
    FEWEST,
    FEWEST_OF_CONCEPT,
    ParallelVerses,
    choose_languages,
    halves,
    n_shared,
    of_most,
    verses_of_concepts,
)
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.errors import Unavailable, UserError
from genesis_ds.model.multitask import LM
from genesis_ds.model.own import require_documents


@dataclass(frozen=True)
class ProbeVerses:
    """The verses whose hidden states are compared over languages, and those whose states are clustered."""

    alignment: ParallelVerses | None = None
    """Verses of val_chapter, in two halves."""
    clustering: ParallelVerses | None = None
    """Verses of both validation splits, in concepts."""
    notices: tuple[str, ...] = ()
    """Which probes the run is without, and why, a line each."""


def choose_probe_verses(run: ResolvedRun, text: Text) -> ProbeVerses:
    """Choose the verses for the probes of a run. Raises UserError for a language or file given that cannot be had."""
    notices: list[str] = []
    chosen: dict[str, ParallelVerses] = {}
    choices: dict[str, Callable[[], ParallelVerses]] = {
        "alignment": lambda: _for_alignment(run, text, notices),
        "clustering": lambda: _for_clustering(run, text, notices),
    }
    for name, choose in choices.items():
        if getattr(run.intervals, name):
            try:
                require_documents(run.config)
                chosen[name] = choose()
            except Unavailable as reason:
                notices.append(f"without {name}: {reason}")
    if run.intervals.connectives:
        if LM not in run.tasks:
            raise UserError(
                f"connectives.every: {run.config.connectives.every}, but this run does not train lm; give 0"
            )
        if not set(run.config.connectives.words) & set(text.token_set.languages):
            languages = ", ".join(text.token_set.languages)
            notices.append(f"without connectives: connectives.words has no list for a language of the run, {languages}")
    return ProbeVerses(**chosen, notices=tuple(notices))


def _for_alignment(run: ResolvedRun, text: Text, notices: list[str]) -> ParallelVerses:
    config, known = run.config.alignment, text.token_set.languages
    table = VerseTable(text.token_set, ["val_chapter"], run.config.batch.seq_len)
    too_few = [] if config.languages else [each for each in known if n_shared(table, [each]) < 2 * FEWEST]
    candidates = [language for language in known if language not in too_few]
    languages = choose_languages(candidates if len(candidates) > 1 else known, config.languages, "alignment.languages")
    if len(languages) < 2:
        raise Unavailable(f"the run has one language, {languages[0]}")
    chosen = of_most(table, languages, lambda kept: halves(table, kept, config.max_verses))
    notices += _left_out("alignment", chosen, [*languages, *too_few], f"{FEWEST} in each half of the chapters")
    return chosen


def _for_clustering(run: ResolvedRun, text: Text, notices: list[str]) -> ParallelVerses:
    config = run.config.clustering
    languages = choose_languages(text.token_set.languages, config.languages, "clustering.languages")
    table = VerseTable(text.token_set, VALIDATION_TIERS, run.config.batch.seq_len)
    if config.topics is None:
        concept_of = _by_keyword(config, text, table)
    else:
        known = np.concatenate([text.token_set.stream(tier, languages[0]).verse_ids for tier in KEPT_TIERS])
        try:
            concept_of, skipped = read_topics(Path(config.topics), known)
        except UserError as error:
            raise UserError(f"clustering.topics: {error}") from error
        notices += skipped
    chosen = of_most(table, languages, lambda kept: verses_of_concepts(table, kept, concept_of, config.max_verses))
    notices += _left_out("clustering", chosen, languages, f"{FEWEST_OF_CONCEPT} of two concepts or more")
    return chosen


def _left_out(probe: str, chosen: ParallelVerses, languages: Sequence[str], needed: str) -> list[str]:
    """Return a line on the languages that a probe leaves out, if it does."""
    left_out = [language for language in languages if language not in chosen.languages]
    counts = ", ".join(f"{each} {n_shared(chosen.table, [*chosen.languages, each]):,}" for each in left_out)
    said = (
        f"{probe} leaves out {', '.join(left_out)}: too few verses of {'/'.join(chosen.table.tiers)} that "
        f"{', '.join(chosen.languages)} have as well ({counts}); needed are {needed}"
    )
    return [said] if left_out else []


def _by_keyword(config: ClusteringConfig, text: Text, table: VerseTable) -> dict[int, str]:
    """Return verse id -> concept, by the text of the verses in the keywords' language."""
    if config.keyword_language not in table.labels:
        raise Unavailable(
            f"its keywords are of language '{config.keyword_language}', which the run does not have; set "
            "clustering.keyword_language and clustering.concepts, or clustering.topics"
        )
    rows = np.flatnonzero(table.languages == table.labels.index(config.keyword_language))
    texts = {int(table.verse_ids[row]): text.tokenizer.decode(table.tokens(row).tolist()) for row in rows.tolist()}
    return concepts_by_keyword(texts, config.concepts)

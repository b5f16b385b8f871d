"""What a run of text measures of languages, concepts and connectives: on which verses, and why not where it cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genesis_ds.config import ClusteringConfig, RunConfig
from genesis_ds.corpus.concepts import concepts_by_keyword, read_topics
from genesis_ds.data.aligned_verses import ParallelVerses, choose_languages, halves, verses_of_concepts
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import evaluating
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.evaluate.alignment import Alignment
from genesis_ds.hooks.evaluate.clustering import Clustering
from genesis_ds.hooks.evaluate.connectives import Connectives
from genesis_ds.hooks.evaluate.model_calls import ModelCalls, VerseStates
from genesis_ds.model.multitask import LM, output_of
from genesis_ds.tasks.base import Unavailable
from genesis_ds.tasks.load import trained
from genesis_ds.training.run_data import Text


@dataclass(frozen=True)
class Studies:
    """The verses whose states are compared, and those that are clustered."""

    alignment: ParallelVerses | None = None
    """Of val_chapter, in two halves."""
    clustering: ParallelVerses | None = None
    """Of both validation splits, in concepts."""
    notices: tuple[str, ...] = ()


def open_studies(run: RunConfig, text: Text) -> Studies:
    """Raises UserError for a language or a file that was asked for and cannot be had."""
    notices: list[str] = []
    chosen: dict[str, ParallelVerses] = {}
    choices: dict[str, Callable[[], ParallelVerses]] = {
        "alignment": lambda: _for_alignment(run, text),
        "clustering": lambda: _for_clustering(run, text, notices),
    }
    for name, choose in choices.items():
        if getattr(run, name).every:
            try:
                chosen[name] = choose()
            except Unavailable as reason:
                notices.append(f"without {name}: {reason}")
    if run.connectives.every:
        if LM not in trained(run):
            raise UserError(f"connectives.every: {run.connectives.every}, but this run does not train lm; give 0")
        if not set(run.connectives.words) & set(text.token_set.languages):
            languages = ", ".join(text.token_set.languages)
            notices.append(f"without connectives: connectives.words has no list for a language of the run, {languages}")
    return Studies(**chosen, notices=tuple(notices))


def study_hooks(
    run: RunConfig, text: Text, studies: Studies, engine: Any, ranks: Ranks, device: torch.device
) -> list[Hook]:
    """Their hooks."""
    hooks: list[Hook] = []
    in_evaluation = partial(evaluating, engine)
    shape = run.model.n_layers, run.batch.seq_len, run.batch.micro_batch_size
    states = VerseStates(ModelCalls(output_of(engine), ranks, device), in_evaluation, *shape)
    if studies.alignment:
        hooks.append(Alignment(states, studies.alignment, run.alignment.every, ranks.is_main))
    if studies.clustering:
        hooks.append(Clustering(states, studies.clustering, run.clustering.every, ranks.is_main))
    if run.connectives.every:
        of_text = text.token_set, text.tokenizer, run.connectives, run.batch
        hooks.append(Connectives(partial(output_of(engine), LM), in_evaluation, *of_text, ranks, device))
    return hooks


def _for_alignment(run: RunConfig, text: Text) -> ParallelVerses:
    languages = choose_languages(text.token_set.languages, run.alignment.languages, "alignment.languages")
    if len(languages) < 2:
        raise Unavailable(f"the run has one language, {languages[0]}")
    return halves(VerseTable(text.token_set, ["val_chapter"], run.batch.seq_len), languages, run.alignment.max_verses)


def _for_clustering(run: RunConfig, text: Text, notices: list[str]) -> ParallelVerses:
    config = run.clustering
    languages = choose_languages(text.token_set.languages, config.languages, "clustering.languages")
    table = VerseTable(text.token_set, VALIDATION_TIERS, run.batch.seq_len)
    if config.topics is None:
        concept_of = _by_keyword(config, text, table)
    else:
        known = np.concatenate([text.token_set.stream(tier, languages[0]).verse_ids for tier in KEPT_TIERS])
        try:
            concept_of, skipped = read_topics(Path(config.topics), known)
        except UserError as error:
            raise UserError(f"clustering.topics: {error}") from error
        notices += skipped
    return verses_of_concepts(table, languages, concept_of, config.max_verses)


def _by_keyword(config: ClusteringConfig, text: Text, table: VerseTable) -> dict[int, str]:
    """Verse id -> concept, by the text of the keywords' language in the table."""
    if config.keyword_language not in table.labels:
        raise Unavailable(
            f"its keywords are of language '{config.keyword_language}', which the run does not have; set "
            "clustering.keyword_language and clustering.concepts, or clustering.topics"
        )
    rows = np.flatnonzero(table.languages == table.labels.index(config.keyword_language))
    texts = {int(table.verse_ids[row]): text.tokenizer.decode(table.tokens(row).tolist()) for row in rows.tolist()}
    return concepts_by_keyword(texts, config.concepts)

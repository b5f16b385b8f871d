"""Which languages of a corpus a run learns from and is judged on, in words."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.splits import TIERS, Split
from genesis_ds.corpus.verses import Translation
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS

MOST_NAMED = 12
"""Languages that are named where a corpus has more."""

StreamSizes = Mapping[str, Mapping[str, int]]
"""Language -> tier -> tokens of its stream."""


def stream_sizes(translation: Translation, lengths: NDArray[np.int64], split: Split) -> dict[str, int]:
    """Return the tokens that the stream of each tier would have, of a translation whose rows have lengths [N]."""
    tiers = split.tier_of(translation.verse_ids)
    sizes = {}
    for tier in KEPT_TIERS:
        rows = translation.present & (tiers == TIERS.index(tier))
        n_chapters = len(np.unique(translation.verse_ids[rows] // 1000))
        sizes[tier] = int(lengths[rows].sum() + rows.sum()) + n_chapters
    return sizes


def n_windows(n_tokens: int, seq_len: int) -> int:
    """Return the windows of seq_len tokens, with a target for each, that a stream of n tokens is cut into."""
    return max(0, n_tokens - 1) // seq_len


def chosen_of(chosen: Sequence[str], known: Mapping[str, Translation], corpus: str) -> str:
    """Return which of a corpus's languages are chosen: "en, es, ko of 33 languages in corpora/many".

    known: label -> translation, of all that the corpus has.
    """
    n_more = len(chosen) - MOST_NAMED
    names = ", ".join(chosen[:MOST_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")
    if len(chosen) == len(known):
        return f"{names}: all of {corpus}"
    of_languages = all(label == translation.language for label, translation in known.items())
    return f"{names} of {len(known)} {'languages' if of_languages else 'translations'} in {corpus}"


def gaps(sizes: StreamSizes, seq_len: int) -> list[str]:
    """Return what the languages lack to be trained on and judged, a line for each lack that some have."""
    lacks: dict[str, list[str]] = {}
    for language, of_tier in sizes.items():
        train, judged = of_tier["train"], any(of_tier[tier] for tier in VALIDATION_TIERS)
        if not train:
            lack = "only in validation, so judged and not trained on" if judged else "no text outside of dropped verses"
            lacks.setdefault(lack, []).append(language)
            continue
        if not n_windows(train, seq_len):
            lack = f"no window of {seq_len} tokens in training, so lm does not learn from it"
            lacks.setdefault(lack, []).append(f"{language} ({train:,} tokens)")
        if not judged:
            lacks.setdefault("no text in validation, so not judged", []).append(language)
    return [f"{', '.join(languages)}: {lack}" for lack, languages in lacks.items()]

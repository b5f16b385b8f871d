"""What a corpus holds, and which of its languages a run learns from and is judged on, in words."""

from collections.abc import Mapping, Sequence

from genesis_ds.corpus.inspect import describe, format_description
from genesis_ds.corpus.splits import TIERS, split_verses
from genesis_ds.corpus.verses import Corpus
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS, Named, build_stream, select_translations
from genesis_ds.tokenizer import Tokenizer

MOST_NAMED = 12
"""Languages that are named where a corpus has more."""

StreamSizes = Mapping[str, Mapping[str, int]]
"""Language -> tier -> tokens of its stream."""


def n_windows(n_tokens: int, seq_len: int) -> int:
    """Return the windows of seq_len tokens, with a target for each, that a stream of n tokens is cut into."""
    return max(0, n_tokens - 1) // seq_len


def chosen_of(chosen: Sequence[str], known: Mapping[str, Named], corpus: str) -> str:
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


def report(corpus: Corpus, tokenizer: Tokenizer, split_seed: int, seq_len: int) -> tuple[list[str], int]:
    """Return what a corpus holds, a line each, and the tokens of its longest training stream."""
    split = split_verses(corpus, split_seed)
    tokens: dict[str, int] = {}
    windows: dict[str, int] = {}
    sizes: dict[str, dict[str, int]] = {}
    for label, translation in select_translations(corpus.translations, []).items():
        streams = {tier: build_stream(translation, split.rows(tier, translation), tokenizer) for tier in TIERS}
        sizes[label] = {tier: len(streams[tier].tokens) for tier in KEPT_TIERS}
        tokens[translation.name] = sum(int(stream.lengths.sum()) for stream in streams.values())
        windows[translation.name] = n_windows(sizes[label]["train"], seq_len)
    description = format_description(describe(corpus, split, tokens, windows), seq_len)
    notices = [f"notice: {notice}" for notice in (*gaps(sizes, seq_len), *corpus.notices)]
    return [description, *notices], max(of_tier["train"] for of_tier in sizes.values())

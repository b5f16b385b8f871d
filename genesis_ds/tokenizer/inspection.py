"""The description of a tokenizer by what it does to texts."""

from collections.abc import Mapping, Sequence

import numpy as np

from genesis_ds.tokenizer import Tokenizer


def describe(tokenizer: Tokenizer, texts_by_language: Mapping[str, Sequence[str]], examples: Sequence[str] = ()) -> str:
    """Return several lines: the tokenizer, one row per language, and how each of `examples` is cut.

    A row counts tokens, bytes per token (UTF-8), tokens per verse (a verse being one of the texts) and the share of
    tokens that are single-byte pieces: what the vocabulary could not spell otherwise.
    """
    pieces = tokenizer.pieces()
    lengths = tokenizer.byte_lengths
    spells_byte = np.array([piece.startswith("<0x") for piece in pieces]) & (lengths == 1)
    lines = [
        f"kind         {tokenizer.kind}",
        f"vocabulary   {tokenizer.vocab_size:,}",
        f"fingerprint  {tokenizer.fingerprint}",
    ]
    if texts_by_language:
        lines += ["", "language        verses       tokens  bytes/token  tokens/verse  byte pieces"]
    for language, texts in texts_by_language.items():
        lines.append(_row(language, tokenizer.encode_many(texts), lengths, spells_byte))
    for text in examples:
        lines += ["", text, "  " + " | ".join(pieces[i] for i in tokenizer.encode(text))]
    return "\n".join(lines)


def _row(language: str, encoded: list[np.ndarray], lengths: np.ndarray, spells_byte: np.ndarray) -> str:
    ids = np.concatenate(encoded) if encoded else np.empty(0, np.int32)
    if not ids.size:
        return f"{language:<12}{len(encoded):>10,}{0:>13,}{'-':>13}{'-':>14}{'-':>13}"
    per_token, per_verse, share = lengths[ids].mean(), ids.size / len(encoded), spells_byte[ids].mean()
    return f"{language:<12}{len(encoded):>10,}{ids.size:>13,}{per_token:>13.2f}{per_verse:>14.1f}{share:>13.2%}"

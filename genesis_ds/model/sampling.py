"""How the next token is drawn from logits, and which is not.

Shapes: B batch, V vocabulary.
"""

import codecs
import math

import torch
from torch import Tensor

from genesis_ds.config.sampling import Sampling
from genesis_ds.tokenizer import Tokenizer

COLDEST = 1e-6
"""Below this temperature a draw is the likeliest token, as logits divided by it could overflow."""


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator, seen: Tensor | None = None) -> Tensor:
    """Return token ids [B, 1] drawn from logits fp32 [B, V]. seen: bool [B, V], which tokens are there already."""
    if seen is not None and sampling.repetition_penalty != 1:
        penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if sampling.temperature < COLDEST:
        return logits.argmax(-1, keepdim=True)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered.masked_fill(before >= sampling.top_p, 0))
    return torch.multinomial(probabilities, 1, generator=generator)


class LeftOut:
    """The tokens that must not be drawn."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """vocab_size: V of the model, which may have ids beyond the tokenizer's."""
        self._always = torch.arange(vocab_size) >= tokenizer.vocab_size
        self._always[[tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id]] = True
        self._eos_id = tokenizer.eos_id
        self._bytes = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self._after: dict[bytes, Tensor] = {}

    def after(self, incomplete: bytes) -> Tensor:
        """Return bool [V]: specials but for the end, and what would make no UTF-8 after the bytes of a character."""
        if incomplete not in self._after:
            decoder = codecs.getincrementaldecoder("utf-8")()
            left_out = self._always.clone()
            left_out[self._eos_id] = bool(incomplete)
            for token, piece in enumerate(self._bytes):
                decoder.setstate((incomplete, 0))
                try:
                    decoder.decode(piece)
                    left_out[token] |= b"\xed\xa0" <= decoder.getstate()[0] < b"\xee"  # half a surrogate: refused later
                except UnicodeDecodeError:
                    left_out[token] = True
            self._after[incomplete] = left_out
        return self._after[incomplete]


def incomplete(text: bytes) -> bytes:
    """Return the bytes at the end of UTF-8 with which a character begins that is not whole."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoder.decode(text)
    return decoder.getstate()[0]

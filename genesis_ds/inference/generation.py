"""Text that a decoder writes: one token after another, with the keys and values of those before kept.

The loop is our own, and not transformers' `generate`: that needs a class of transformers for the model, and DeepNorm,
StableMax and heads of tasks have none there; a trainer that runs without transformers should also show what it has
trained. What an export is for, is to be used there.

Shapes: B rows, that is samples, T time, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genesis_ds.config.sampling import Sampling
from genesis_ds.disk import warn
from genesis_ds.errors import UserError
from genesis_ds.inference.streaming import TextSoFar
from genesis_ds.model.cache import KeyValueCache
from genesis_ds.model.sampling import LeftOut, draw
from genesis_ds.model.transformer import Transformer
from genesis_ds.tokenizer import Tokenizer

N_LIKELIEST = 3
"""Tokens whose probabilities are kept beside that of the one drawn."""
KEPT_SHARE = 0.75
"""Of the context, what stays where a text outgrows it. Computing that again is then a small part of the work."""


class Choice(NamedTuple):
    """A token that was drawn."""

    token: int
    probability: float
    """What the model gives it, before temperature, penalty and cuts."""
    likeliest: list[tuple[int, float]]
    """The likeliest tokens and their probabilities."""


@dataclass
class Sample:
    """What the model has written after a prompt."""

    text: str
    """Without the prompt, and up to a stop string."""
    finish: Literal["end", "stop", "length"]
    """Why it ends: the model has ended the text, a stop string has come, or there are max_new_tokens."""
    choices: list[Choice] = field(repr=False)
    """All tokens that were drawn, those of a stop string among them."""

    def __str__(self) -> str:
        return self.text


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    *,
    context: int,
    on_text: Callable[[int, str], None] = lambda sample, text: None,
) -> list[Sample]:
    """Return samples of what a decoder that sees `context` tokens at most writes after a prompt.

    on_text: called with the number of a sample and each new part of its text, in whole characters, as it is written.
    Raises UserError for a prompt that is empty or no text.
    """
    if not prompt:
        raise UserError("prompt: it is empty; give the beginning of a text")
    try:
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    except ValueError as error:
        raise UserError(f"prompt: {error}") from error
    texts = [TextSoFar(sampling.stop) for _ in range(sampling.n)]
    samples = [Sample("", "length", []) for _ in texts]
    running = set(range(sampling.n))
    left_out = LeftOut(tokenizer, model.config.vocab_size)
    for choices in _draw(
        model, context, ids, sampling, lambda: torch.stack([left_out.after(text.incomplete) for text in texts])
    ):
        for number in sorted(running):
            choice, sample = choices[number], samples[number]
            sample.choices.append(choice)
            if choice.token == tokenizer.eos_id:
                sample.finish = "end"
            elif new := texts[number].add(tokenizer.decode_bytes([choice.token])):
                on_text(number, new)
            if texts[number].is_stopped:
                sample.finish = "stop"
            if sample.finish != "length":
                running.remove(number)
        if not running:
            break
    for number, (text, sample) in enumerate(zip(texts, samples, strict=True)):
        if rest := text.end():
            on_text(number, rest)
        sample.text = text.text
    return samples


@torch.inference_mode()
def _draw(
    model: Transformer, context: int, prompt: Sequence[int], sampling: Sampling, left_out: Callable[[], Tensor]
) -> Iterator[list[Choice]]:
    """Yield the next token of every sample, max_new_tokens times. left_out: bool [B, V], those that must not be it."""
    end = len(prompt)
    written = torch.empty(sampling.n, end + sampling.max_new_tokens, dtype=torch.long)
    written[:, :end] = torch.tensor(prompt)
    seen = torch.zeros(sampling.n, model.config.vocab_size, dtype=torch.bool)
    seen[:, prompt] = True
    weight = model.tok_embeddings.weight
    cache = KeyValueCache(model.config, n_rows=sampling.n, n_tokens=min(context, written.shape[1]), like=weight)
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    kept, warned = max(1, int(context * KEPT_SHARE)), False
    start = 0
    for _ in range(sampling.max_new_tokens):
        if cache.length + end - start > context:
            start = end - kept
            cache.clear()
            if not warned:
                warn(f"the text is longer than the model's context of {context} tokens: it sees the newest {kept} on")
            warned = True
        hidden = model.hidden(written[:, start:end].to(weight.device), cache=cache)
        logits = model.logits(hidden[:, -1:])[:, 0].float().cpu()
        require_finite(logits)
        drawn = draw(logits.masked_fill(left_out(), -torch.inf), sampling, generator, seen)
        yield _choices(logits, drawn)
        written[:, end] = drawn[:, 0]
        seen.scatter_(1, drawn, True)
        start, end = end, end + 1


def require_finite(values: Tensor) -> None:
    """Raise UserError where what a model computes is no number."""
    if not values.isfinite().all():
        raise UserError("the model's probabilities are no numbers: it has diverged; take an earlier checkpoint")


def _choices(logits: Tensor, drawn: Tensor) -> list[Choice]:
    """Return what was drawn, [B, 1], by logits [B, V]."""
    probabilities = logits.softmax(-1)
    likeliest = probabilities.topk(min(N_LIKELIEST, logits.shape[-1]))
    rows = zip(
        drawn[:, 0].tolist(),
        probabilities.gather(1, drawn)[:, 0].tolist(),
        likeliest.indices.tolist(),
        likeliest.values.tolist(),
        strict=True,
    )
    return [Choice(token, value, list(zip(ids, values, strict=True))) for token, value, ids, values in rows]

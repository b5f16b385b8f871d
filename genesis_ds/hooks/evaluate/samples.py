"""Samples: text that the model writes on its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import SamplesConfig
from genesis_ds.config.sampling import Sampling
from genesis_ds.data.aligned_verses import choose_languages
from genesis_ds.data.token_set import TokenSet
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import LM
from genesis_ds.model.sampling import LeftOut, draw, incomplete
from genesis_ds.tokenizer import Tokenizer

SEPARATOR = " | "


PEEK = 8
"""Tokens behind the opening that tell whether it ends with a word."""


class Samples(Hook):
    """Continues the opening of each language's validation text, with the same random numbers at every step.

    A sample is the opening, what the model has written, and how the text goes on, with ` | ` between them. Each part
    ends with a word, or with a character where words are longer, as in scripts without spaces.
    """

    def __init__(
        self,
        *,
        logits: Callable[[Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager[None]],
        token_set: TokenSet,
        tokenizer: Tokenizer,
        vocab_size: int,
        config: SamplesConfig,
        every: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """logits: token ids [B, T] -> logits [B, T, V]. vocab_size: V."""
        self.logits, self.evaluating, self.tokenizer = logits, evaluating, tokenizer
        self.config, self.every, self.seed, self.device = config, every, seed, device
        self.left_out = LeftOut(tokenizer, vocab_size)
        n, self.openings, self.continuations = config.prompt_tokens, dict[str, list[int]](), dict[str, str]()
        chosen = choose_languages(token_set.languages, config.languages, "samples.languages")
        for name in chosen if config.languages else token_set.languages:
            ids = token_set.stream("val_chapter", name).tokens[: n + config.new_tokens].tolist()
            if len(ids) >= n:
                whole = self._whole(ids)
                self.openings[name] = ids[:whole]
                self.continuations[name] = self._shown(ids[whole:])

    @classmethod
    def build(cls, context: HookContext) -> "Samples | None":
        """Return the hook of a run that learns to write text."""
        run, engine = context.run, context.engine
        if context.text is None or LM not in run.tasks:
            return None
        return cls(
            logits=partial(engine.output, LM),
            evaluating=engine.evaluating,
            token_set=context.text.token_set,
            tokenizer=context.text.tokenizer,
            vocab_size=run.model.vocab_size,
            config=run.config.samples,
            every=run.intervals.samples,
            seed=run.config.seed,
            device=engine.device,
        )

    def on_step(self, record: StepRecord) -> None:
        if self.openings and self.config.new_tokens and record.due(self.every):
            with self.evaluating():
                written = self._continue()
            for (language, opening), ids in zip(self.openings.items(), written, strict=True):
                given = printable(self.tokenizer.decode(opening))
                parts = (given, self._shown(ids), self.continuations[language])
                record.texts[metrics.sample(language)] = SEPARATOR.join(parts)

    def _continue(self) -> list[list[int]]:
        """Return the new tokens of each language. Openings of several lengths stand in rows that are filled up."""
        sampling = Sampling(temperature=self.config.temperature)
        generator = torch.Generator().manual_seed(self.seed)
        rows = [list(ids) for ids in self.openings.values()]
        for _ in range(self.config.new_tokens):
            longest = max(map(len, rows))
            tokens = torch.tensor([row + [self.tokenizer.pad_id] * (longest - len(row)) for row in rows])
            ends = torch.tensor([len(row) - 1 for row in rows])
            last = self.logits(tokens.to(self.device)).float().cpu()[torch.arange(len(rows)), ends]
            so_far = (incomplete(self.tokenizer.decode_bytes(row)) for row in rows)
            last = last.masked_fill(torch.stack([*map(self.left_out.after, so_far)]), -torch.inf)
            for row, token in zip(rows, draw(last, sampling, generator)[:, 0].tolist(), strict=True):
                row.append(token)
        return [row[len(ids) :] for row, ids in zip(rows, self.openings.values(), strict=True)]

    def _whole(self, ids: list[int]) -> int:
        """Return how many of the first prompt_tokens end with a word; else with a character."""
        most, decode = self.config.prompt_tokens, self.tokenizer.decode_bytes
        whole = most
        while incomplete(decode(ids[:whole])):
            whole -= 1
        for n in range(whole, most // 2, -1):
            before, following = decode(ids[:n]), decode(ids[n : n + PEEK]).decode(errors="ignore")
            if not incomplete(before) and not (before.decode()[-1:].isalnum() and following[:1].isalnum()):
                return n
        return whole

    def _shown(self, ids: list[int]) -> str:
        """Return the text of tokens, up to their end token or the last whole word."""
        eos_id = self.tokenizer.eos_id
        is_ended = eos_id in ids
        text = self.tokenizer.decode_bytes(ids[: ids.index(eos_id)] if is_ended else ids).decode(errors="ignore")
        words = text.rstrip().rpartition(" ")[0] if text[-1:].isalnum() else text
        return printable(text if is_ended or len(words) < len(text) / 2 else words)


def printable(text: str) -> str:
    """Return a text with U+FFFD for every character but a line break that has no sign of its own."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)

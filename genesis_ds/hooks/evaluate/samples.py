"""Samples: text that the model writes on its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import SamplesConfig
from genesis_ds.config.sampling import Sampling
from genesis_ds.data.token_set import TokenSet
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import LM
from genesis_ds.model.sampling import LeftOut, draw, incomplete
from genesis_ds.tokenizer import Tokenizer

SEPARATOR = " | "


class Samples(Hook):
    """Continues the opening of each language's validation text, with the same random numbers at every step."""

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
        openings = {name: token_set.stream("val_chapter", name).tokens for name in token_set.languages}
        openings = {name: ids[: config.prompt_tokens] for name, ids in openings.items()}
        self.openings = {name: ids for name, ids in openings.items() if len(ids) == config.prompt_tokens}

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
            for language, ids in zip(self.openings, written.tolist(), strict=True):
                record.texts[metrics.sample(language)] = self._shown(ids)

    def _continue(self) -> Tensor:
        """Return the opening and the new tokens of all languages, [languages, prompt_tokens + new_tokens]."""
        sampling = Sampling(temperature=self.config.temperature)
        generator = torch.Generator().manual_seed(self.seed)
        tokens = torch.stack([torch.from_numpy(ids.astype("int64")) for ids in self.openings.values()])
        for _ in range(self.config.new_tokens):
            last = self.logits(tokens.to(self.device))[:, -1].float().cpu()
            written = (incomplete(self.tokenizer.decode_bytes(row)) for row in tokens.tolist())
            last = last.masked_fill(torch.stack([*map(self.left_out.after, written)]), -torch.inf)
            tokens = torch.cat([tokens, draw(last, sampling, generator)], dim=1)
        return tokens

    def _shown(self, ids: list[int]) -> str:
        """Return the text of an opening and of what follows it, up to the end that the model has given it.

        A character that the opening has cut is in what follows; one that new_tokens has cut is left out.
        """
        n, eos_id = self.config.prompt_tokens, self.tokenizer.eos_id
        end = ids.index(eos_id, n) if eos_id in ids[n:] else len(ids)
        given, text = (self.tokenizer.decode_bytes(ids[:stop]) for stop in (n, end))
        whole = len(given) - len(incomplete(given))
        return text[:whole].decode() + SEPARATOR + text[whole:].decode(errors="ignore")

"""A trained model with its tokenizer, ready for use: from a run, a checkpoint, an export or a file of weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_ds.checkpoint.load.find import find_model
from genesis_ds.checkpoint.load.sources import AVERAGE, SEQ_LEN, open_model
from genesis_ds.checkpoint.models.provenance import WEIGHTS, read_run
from genesis_ds.checkpoint.models.stored_model import StoredModel
from genesis_ds.checkpoint.save.manifest import MANIFEST
from genesis_ds.config.checks import require
from genesis_ds.config.sampling import Sampling
from genesis_ds.errors import UserError
from genesis_ds.inference.generation import Sample, generate
from genesis_ds.inference.nats import token_nats
from genesis_ds.inference.rates import Rate
from genesis_ds.inference.states import mean_states
from genesis_ds.model.transformer import Transformer
from genesis_ds.tokenizer import Tokenizer


class Score(NamedTuple):
    """What a model says of a text."""

    log_probability: float
    """Of the whole text, as the beginning of a document, in nats."""
    bits_per_byte: float
    perplexity: float
    """Per token."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A decoder in files, and what is known about it."""

    path: Path
    """The checkpoint, export or file that it is of."""
    context: int
    """The tokens that it sees at most: those of a window of its training, or max_seq_len where that is not known."""
    global_step: int | None
    run: dict[str, Any] = field(repr=False)
    """The configuration of its run as plain data; empty where it is not with the model."""
    _tokenizer: Tokenizer | None = field(repr=False)
    _stored: StoredModel = field(repr=False)
    _device: torch.device = field(repr=False)

    def decoder(self) -> Transformer:
        """Return the decoder in evaluation mode, in fp32, read anew."""
        return self._stored.decoder().to(self._device)

    def nats(self, texts: Sequence[NDArray[np.integer[Any]]], max_windows: int = 0) -> list[NDArray[np.float64]]:
        """Return the nats of texts' tokens (token_nats). Raises UserError, which names the model, for no numbers."""
        decoder = self.decoder()
        try:
            return token_nats(decoder, self.context, texts, max_windows)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises UserError for a model that comes without one."""
        if self._tokenizer is None:
            raise UserError(
                f"{self.path}: no tokenizer is with the model; if it is one of text, give the one it was trained with: "
                "--tokenizer bytes, or the path of its SentencePiece model"
            )
        return self._tokenizer

    @property
    def name(self) -> str:
        """Its name in tables: the run's of a checkpoint, else that of the export or file, the step, and `average`."""
        if of_weights := WEIGHTS.fullmatch(self.path.name):
            return f"{self.run['name']}@{int(of_weights[1])}"
        run = self.run["name"] if (self.path / MANIFEST).exists() else self.path.name
        name = str(run) if self.global_step is None else f"{run}@{self.global_step}"
        return f"{name} average" if AVERAGE in self._stored.about else name

    def beginnings(self, texts: Sequence[str]) -> list[NDArray[np.integer[Any]]]:
        """Return the ids of texts, each as the beginning of a document. Raises UserError for an empty one."""
        return [np.array([self.tokenizer.bos_id, *ids]) for ids in self._encoded(texts)]

    def _encoded(self, texts: Sequence[str]) -> list[NDArray[np.integer[Any]]]:
        if isinstance(texts, str):
            raise UserError("texts: give a list of texts, such as [text]")
        for number, text in enumerate(texts, 1):
            if not text:
                raise UserError(f"text {number}: it is empty; leave it out")
        try:
            return self.tokenizer.encode_many(texts)
        except ValueError as error:
            raise UserError(f"a text is not Unicode: {error}") from error


@dataclass(frozen=True, kw_only=True)
class LoadedModel(KnownModel):
    """A decoder in evaluation mode, in fp32, and what is known about it."""

    model: Transformer

    def decoder(self) -> Transformer:
        """Return the decoder, which is kept."""
        return self.model

    def generate(
        self, prompt: str, on_text: Callable[[int, str], None] = lambda sample, text: None, **sampling: Any
    ) -> list[Sample]:
        """Return samples of text that follows the prompt, which is taken as the beginning of a document.

        on_text: called with the number of a sample and each new part of its text. sampling: the fields of
        `genesis_ds/config/sampling.py`: `Sampling`, such as temperature=0.8, n=3. Raises UserError for values that are
        not allowed.
        """
        how = Sampling(**sampling)
        return generate(self.model, self.tokenizer, prompt, how, context=self.context, on_text=on_text)

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Return what the model says of texts, each the beginning of a document. Raises UserError for an empty one."""
        ids = self.beginnings(texts)
        lengths = self.tokenizer.byte_lengths
        scores = []
        for text, nats in zip(ids, self.nats(ids), strict=True):
            rate = Rate.of(float(nats.sum()), len(nats), int(lengths[text[1:]].sum()))
            scores.append(Score(-float(nats.sum()), rate.bits_per_byte, rate.perplexity))
        return scores

    def encode(self, texts: Sequence[str], layer: int | None = None) -> NDArray[np.float32]:
        """Return a vector for each text, [n, D]: the mean of its hidden states after `layer` layers; None: after all.

        Raises UserError for a layer that the model has not, and for a text that is empty or longer than max_seq_len.
        """
        n_layers, most = self.model.config.n_layers, self.model.config.max_seq_len
        layer = n_layers if layer is None else layer
        if not 1 <= layer <= n_layers:
            raise UserError(f"layer: {layer} is not there; give 1 to {n_layers}")
        ids = self._encoded(texts)
        for number, text in enumerate(ids, 1):
            if len(text) > most:
                raise UserError(f"text {number}: {len(text)} tokens, and the model takes {most}; cut it")
        return mean_states(self.model, ids, layer)


def load(
    path: str | Path,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> LoadedModel:
    """Return the model of a run, a checkpoint, an export or a file of weights.

    checkpoint: which one of a run: `best`, `step-N` or a name; None: the newest good one. tokenizer: `bytes`, or the
    path of a SentencePiece model, in the place of the model's own. device: as torch calls it; None: a GPU if one is
    there. trust: run code that its files hold. Raises UserError for a path that holds no model.
    """
    known = known_model(find_model(Path(path), checkpoint), tokenizer, device, trust)
    return LoadedModel(**vars(known), model=known.decoder())


def known_model(path: Path, tokenizer: str | None = None, device: str | None = None, trust: bool = False) -> KnownModel:
    """Return the model of a checkpoint, an export or a file of weights, which is left there; otherwise as `load`."""
    stored = open_model(path, trust=trust)
    stored.require_decoder()
    own, vocab_size = stored.tokenizer(tokenizer), stored.config.vocab_size
    if own and own.vocab_size > vocab_size:
        raise UserError(
            f"{path}: a model of {vocab_size} token ids, and the tokenizer has {own.vocab_size}; give its own"
        )
    longest = stored.config.max_seq_len
    return KnownModel(
        path=path,
        context=min(stored.about.get(SEQ_LEN) or longest, longest),
        global_step=stored.about.get("global_step"),
        run=read_run(path),
        _tokenizer=own,
        _stored=stored,
        _device=_device(device),
    )


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        require("device", name, device.type in ("cpu", "cuda"), "cpu or cuda, or leave it out")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name}: {str(error).splitlines()[0]}; give cpu, or leave it out") from error
    return device

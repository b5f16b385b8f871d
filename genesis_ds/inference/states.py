"""Vectors of texts: the mean of a text's hidden states, as alignment and clustering measure them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_ds.model.documents import PADDING, Documents
from genesis_ds.model.multitask import STATES, MultiTaskModel
from genesis_ds.model.transformer import Transformer

BATCH_TOKENS = 2**14


@torch.inference_mode()
def mean_states(model: Transformer, texts: Sequence[NDArray[np.integer]], layer: int) -> NDArray[np.float32]:
    """Return the mean hidden states, [n, D], of n texts of token ids after so many layers; after all, normed.

    A text is laid out as a verse of an evaluation: its own tokens alone, the first at position 0.
    """
    states_of, device = MultiTaskModel(model, {}).eval(), model.tok_embeddings.weight.device
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found = np.empty((len(texts), model.config.dim), np.float32)
    while order:
        longest = len(texts[order[-1]])
        rows, order = order[-max(1, BATCH_TOKENS // longest) :], order[: -max(1, BATCH_TOKENS // longest)]
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        numbers = torch.full_like(tokens, PADDING)
        for row, number in enumerate(rows):
            tokens[row, : len(texts[number])] = torch.from_numpy(texts[number].astype(np.int64))
            numbers[row, : len(texts[number])] = row
        documents, examples = Documents.of(numbers).to(device), torch.arange(len(rows), device=device)[:, None]
        output = states_of(STATES, tokens.to(device), documents, examples, depths=(layer,)).output
        found[rows] = output[:, 0, 0].float().cpu().numpy()
    return found

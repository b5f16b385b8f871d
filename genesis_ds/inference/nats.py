"""What a decoder gives the tokens of texts, by the windows of training's own evaluation.

A text of ids is cut into windows of T targets, T being the model's context: window w has the targets w T + 1 to
(w + 1) T, each of which is predicted from what is before it in its window. So every token but a text's first is a
target once (see `tasks/lm.py`: `evaluation_windows`).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_ds.inference.generation import require_finite
from genesis_ds.model.output import IGNORE
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import as_batch, cross_entropy, window_starts

BATCH_LOGITS = 2**23
"""Most logits of one forward pass of several rows: 32 MiB in fp32, of which there are a few at a time."""


@torch.inference_mode()
def token_nats(
    model: Transformer, context: int, texts: Sequence[NDArray[np.integer]], max_windows: int = 0
) -> list[NDArray[np.float64]]:
    """Return for each text of n ids the cross-entropy in nats, [n - 1], of each token but the first.

    max_windows: of a text, evenly spaced; what is in no window is nan. 0: all.
    """
    device = model.tok_embeddings.weight.device
    found = [np.full(max(0, len(ids) - 1), np.nan) for ids in texts]
    places = [
        (text, start) for text, ids in enumerate(texts) for start in window_starts(len(ids), context, max_windows)
    ]
    sizes = [min(context, len(found[text]) - start) for text, start in places]
    order = sorted(range(len(places)), key=sizes.__getitem__)
    while order:
        longest = sizes[order[-1]]
        n_rows = max(1, BATCH_LOGITS // (longest * model.config.vocab_size))
        rows, order = order[-n_rows:], order[:-n_rows]
        windows = np.full((len(rows), longest + 1), IGNORE, dtype=np.int64)
        for row, place in enumerate(rows):
            text, start = places[place]
            windows[row, : sizes[place] + 1] = texts[text][start : start + sizes[place] + 1]
        batch = as_batch(windows).to(device)
        nats = cross_entropy(model(batch.inputs["tokens"].clamp(min=0)), batch.labels["targets"], "none")
        require_finite(nats)
        for values, place in zip(nats.view(len(rows), longest).double().cpu().numpy(), rows, strict=True):
            text, start = places[place]
            found[text][start : start + sizes[place]] = values[: sizes[place]]
    return found


def of_ensemble(nats: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the nats of tokens under the mean of the probabilities that several models give them."""
    with np.errstate(invalid="ignore"):  # nan, where a token was not judged
        of_sum: NDArray[np.float64] = np.logaddexp.reduce(-np.stack(nats))
    return math.log(len(nats)) - of_sum

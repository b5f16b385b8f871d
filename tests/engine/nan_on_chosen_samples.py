"""launch/train.py, but what two steps train on first gives NaN, then and whenever a model meets it again."""

import itertools
import math
import sys
import weakref

from genesis_ds.engine.engine import Engine
from genesis_ds.training import session

FIRST, LAST = 8, 12
"""Passes in training mode: with two micro-batches a step, steps 5 and 6."""
passes = itertools.count()
nan_on_chosen_samples: set[bytes] = set()
models: list[weakref.ref] = []
build = Engine.build


def embed(module, inputs, output):
    batch = inputs[0].numpy().tobytes()
    if module.training and FIRST <= next(passes) < LAST:
        nan_on_chosen_samples.add(batch)
    return output * math.nan if batch in nan_on_chosen_samples else output


def build_faulty(*arguments, **named):
    assert all(model() is None for model in models), "the memory of an earlier engine is taken"
    engine = build(*arguments, **named)
    models.append(weakref.ref(engine.model))
    engine.model.base.tok_embeddings.register_forward_hook(embed)
    return engine


Engine.build = build_faulty
sys.exit(session.main(sys.argv[1:]))

"""genesis_ds: deep, narrow decoders on small parallel corpora, trained by DeepSpeed at the memory frontier."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return `load` (genesis_ds/inference/loaded.py), by which a trained model is used, when it is first asked for.

    Its module is named and not imported: all others stand on this one, and torch takes a second.
    """
    if name == "load":
        return importlib.import_module("genesis_ds.inference.loaded").load
    raise AttributeError(f"module 'genesis_ds' has no attribute '{name}'")

"""How much faster a decoder writes with its keys and values kept: tokens a second, cached and not, and logits apart.

The model has random weights: what is written does not matter. Run it as

    python tests/bench/generation.py --preset deep_50m
"""

import argparse
import time

import torch

from genesis_ds.config import ModelShape
from genesis_ds.config.presets import PRESETS
from genesis_ds.model.cache import KeyValueCache
from genesis_ds.model.transformer import Transformer


def main() -> None:
    """Print a line for each way, and what lies between them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="quickstart", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=512, help="tokens that are written")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = Transformer(ModelShape(**PRESETS[given.preset], vocab_size=260)).eval().to(given.device)
    tokens = torch.randint(4, 260, (1, given.tokens), device=given.device)
    last, seconds = {}, {}
    with torch.inference_mode():
        for way in ("uncached", "cached"):
            cache = None if way == "uncached" else _cache(model, given.tokens)
            begun = time.perf_counter()
            for end in range(1, given.tokens + 1):
                hidden = model.hidden(tokens[:, 0 if cache is None else end - 1 : end], cache=cache)
                last[way] = model.logits(hidden[:, -1:]).cpu()
            seconds[way] = time.perf_counter() - begun
            print(f"{way:<9} {given.tokens / seconds[way]:>8.1f} tokens/s  {seconds[way]:.2f} s")
    apart = (last["cached"] - last["uncached"]).abs().max().item()
    times = seconds["uncached"] / seconds["cached"]
    print(f"cached is {times:.1f} times as fast; the last logits are {apart:.1e} apart")


def _cache(model: Transformer, n_tokens: int) -> KeyValueCache:
    return KeyValueCache(model.config, n_rows=1, n_tokens=n_tokens, like=model.norm.weight)


if __name__ == "__main__":
    main()

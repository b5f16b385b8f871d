"""Which attention kernel runs and how exactly, for every backend: one of the commands of measure.py.

python tests/gpu/attention.py --json FILE.json [--seq_len 2048]
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from genesis_ds.config import ModelConfig
from genesis_ds.errors import UserError
from genesis_ds.model.attention_proof import prove_attention


def prove(backend: str, n_kv_heads: int, packed: bool, seq_len: int) -> dict[str, Any]:
    """Of one backend on whole rows or packed documents, at 16 heads of width 64 in bf16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = ModelConfig(dim=1024, n_heads=16, n_kv_heads=n_kv_heads, vocab_size=260, attention=backend)
    row: dict[str, Any] = {"backend": backend, "n_kv_heads": n_kv_heads, "packed": packed, "seq_len": seq_len}
    try:
        proof = prove_attention(model, device, torch.bfloat16, seq_len, packed)
        return row | {"kernel": proof.kernel, "max_error": proof.max_error}
    except UserError as error:
        return row | {"refused": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seq_len", type=int, default=2048)
    options = parser.parse_args()
    cases = product(("flash_attn", "sdpa_flash", "sdpa"), (16, 4), (False, True))
    kernels = [prove(*case, options.seq_len) for case in cases]
    options.json.write_text(json.dumps({"kernels": kernels}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A model as deep as the deepest preset trains under ZeRO-3 with everything offloaded, and its gradients stay level."""

import json
from pathlib import Path

import pytest

from genesis_ds.config.presets import preset

ZERO3_OFFLOAD = Path(__file__).parents[2] / "ds_configs/zero3_offload.json"


@pytest.mark.slow
def test_144_deepnorm_layers_learn_under_zero3_offload_with_level_gradients(train_cases):
    case = {
        "name": "144 layers",
        "ds_config": json.loads(ZERO3_OFFLOAD.read_text()),
        "model": preset("tower_144_tiny") | {"n_kv_heads": None},
        "steps": 20,
        "measure": True,
    }
    result = train_cases([case], ranks=1)["144 layers"]
    assert result["losses"][-1] < result["losses"][0] - 0.5
    ratios = [step["gradients"][0] / step["gradients"][-1] for step in result["measured"]]
    assert all(0.3 < ratio < 3 for ratio in ratios), ratios

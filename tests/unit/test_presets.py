import pytest
import torch

from genesis_ds.config import ModelShape
from genesis_ds.config.presets import PRESETS, RENAMED
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer
from genesis_ds.training.session import train_arguments
from genesis_ds.user_files import dump_yaml

BILLIONS = {
    "deep_narrow_48": 0.62,
    "rtx4070_optimal": 0.34,
    "deep_narrow_80": 0.57,
    "frontier_1b": 1.03,
    "tower_144": 1.85,
    "frontier_2b": 2.11,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_model_of_the_computed_size(name):
    config = ModelShape(**PRESETS[name], vocab_size=260)
    with torch.device("meta"):
        layer = sum(
            p.numel()
            for p in Transformer(ModelShape(**PRESETS[name] | {"n_layers": 1}, vocab_size=260)).layers.parameters()
        )
    assert config.n_parameters == 2 * 260 * config.dim + config.dim + config.n_layers * layer
    if name in BILLIONS:
        assert round(config.n_parameters / 1e9, 2) == BILLIONS[name]


@pytest.mark.parametrize("name", RENAMED)
def test_a_name_of_before_is_answered_with_the_new_one_and_read_where_a_run_is_stored(name, tmp_path, capsys):
    new = RENAMED[name]
    with pytest.raises(UserError, match=rf"model.preset: '{name}' is named '{new}' now"):
        train_arguments(["--model.preset", name])
    stored = tmp_path / "config.yaml"
    stored.write_text(dump_yaml({"model": PRESETS[new] | {"preset": name}}))
    model = train_arguments(["--config", str(stored)]).run.model
    assert {key: getattr(model, key) for key in PRESETS[new]} == PRESETS[new]

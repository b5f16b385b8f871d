import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_ds.checkpoint.load.initial import initial_weights
from genesis_ds.checkpoint.models.export import export
from genesis_ds.config import BatchConfig, ModelConfig, RunConfig, SamplesConfig, VerseTasksConfig
from genesis_ds.config.resolve import SizedRun
from genesis_ds.errors import UserError

LEGACY = Path(__file__).parents[2] / "data/legacy_deepnorm"
STEP = Path(__file__).parents[2] / "data/legacy_step_file/step_100.pt"
SHAPE = {"n_layers": 4, "dim": 48, "n_heads": 6, "intermediate_size": 192, "vocab_size": 260}


def run(init_from, tasks=(), **shape):
    config = RunConfig(
        init_from=str(init_from),
        model=ModelConfig(**SHAPE | shape),
        batch=BatchConfig(seq_len=32),
        samples=SamplesConfig(new_tokens=0),
        verse_tasks=VerseTasksConfig(projection_dim=16),
    )
    return SizedRun(config, config.model, None, tasks=tasks, heads=tasks)


def test_the_decoder_is_taken_whole_and_of_the_heads_those_that_fit(tmp_path):
    weights = {f"base.{name}": weight for name, weight in load_file(LEGACY / "model.safetensors").items()}
    heads = {
        "heads.coherence.hidden.weight": torch.ones(48, 192),
        "heads.coherence.output.weight": torch.ones(1, 48),
        "heads.paraphrase.hidden.weight": torch.ones(48, 48),
        "heads.paraphrase.output.weight": torch.ones(128, 48),
        "old_head.weight": torch.ones(2),
    }
    save_file(weights | heads, tmp_path / "model.safetensors")
    found = initial_weights(run(tmp_path, tasks=("coherence", "cross_reference", "paraphrase")), None, trust=False)
    taken = {name for name in heads if "coherence" in name}
    assert found.read.keys() == weights.keys() | taken
    assert torch.equal(found.read["base.norm.weight"](), weights["base.norm.weight"])
    assert found.notices == [
        f"weights of {tmp_path / 'model.safetensors'}, with the heads of coherence",
        "the heads of cross_reference, paraphrase begin anew: none of their shape is there",
        "not taken: the heads of old_head, which are no tasks of this run",
    ]


def test_another_shape_is_refused_with_both_values():
    with pytest.raises(UserError, match=r"init_from: .* has dim 48, n_heads 6, .*; this run's has dim 96, n_heads 4, "):
        initial_weights(run(LEGACY, dim=96, n_heads=4, n_kv_heads=2), None, trust=False)
    with pytest.raises(UserError, match=r"has rope_theta 10000.0; this run's has rope_theta 500.0"):
        initial_weights(run(LEGACY, rope_theta=500.0), None, trust=False)
    with pytest.raises(UserError, match=r"init_from: nowhere: no such file or directory"):
        initial_weights(run("nowhere"), None, trust=False)


def test_weights_learned_with_another_tokenizer_are_refused(tmp_path):
    export(LEGACY, tmp_path / "out", "safetensors")
    config = json.loads((tmp_path / "out/config.json").read_text())
    config["tokenizer"] = {"kind": "bytes", "fingerprint": "a" * 16}
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    assert initial_weights(run(tmp_path / "out"), "a" * 64, trust=False).read
    with pytest.raises(UserError, match=r"trained with the tokenizer a{16}, and that of this run is b{16}"):
        initial_weights(run(tmp_path / "out"), "b" * 64, trust=False)


def test_the_runs_own_number_of_heads_serves_where_the_files_do_not_say_it(tmp_path):
    save_file(load_file(LEGACY / "model.safetensors"), tmp_path / "model.safetensors")
    assert len(initial_weights(run(tmp_path, n_heads=3), None, trust=False).read) == 47


def test_a_step_file_of_the_earlier_code_is_taken_by_a_tied_run():
    shape = {"n_layers": 2, "dim": 64, "n_heads": 4, "tie_embeddings": True}
    found = initial_weights(run(STEP, **shape), None, trust=False)
    assert len(found.read) == 24
    assert found.notices[1:] == [
        "lm_head.weight is the output",
        "tied: lm_head.weight is base.tok_embeddings.weight",
        "not taken: optimizer_state_dict, scaler_state_dict, research_state",
    ]
    with pytest.raises(UserError, match="its model has tie_embeddings True; this run's has tie_embeddings False"):
        initial_weights(run(STEP, **shape | {"tie_embeddings": False}), None, trust=False)

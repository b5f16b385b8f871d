import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from helpers.built_in_heads import heads_of
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from genesis_ds.checkpoint.models.export import export, load_model
from genesis_ds.config import ActivationCheckpointingConfig, BatchConfig, ModelShape, RunConfig, SamplesConfig
from genesis_ds.disk import NotWritten
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import build_model

TINY = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50, "max_seq_len": 64}
LLAMA = {"norm": "rmsnorm", "n_kv_heads": 2, "rope_theta": 500.0}
TOKENS = torch.arange(80).view(2, 40) * 7 % 50
HEADS = ("coherence", "paraphrase")


@pytest.fixture
def trained(tmp_path):
    """Shape, tasks -> a model, and its file of weights as a run writes it."""

    def train(shape, tasks=(), dtype=torch.float32):
        config = ModelShape(**TINY | shape)
        torch.manual_seed(0)
        model = build_model(config, ActivationCheckpointingConfig(), lambda: heads_of(tasks, config.dim, 16))
        model = model.to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        run = RunConfig(model=config, batch=BatchConfig(seq_len=32), samples=SamplesConfig(new_tokens=0))
        weights = tmp_path / "run/checkpoints/weights/step-00000007.safetensors"
        weights.parent.mkdir(parents=True)
        save_file(dict(model.named_parameters()), weights)
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(asdict(run)))
        return model, weights

    return train


def llama(directory, tokens):
    """Logits of a LlamaForCausalLM directory, in plain torch from its definition in transformers."""
    config = json.loads((directory / "config.json").read_text())
    weights = {}
    for file in directory.glob("*.safetensors"):
        weights |= load_file(file)
    assert config["architectures"] == ["LlamaForCausalLM"]
    heads, kv_heads, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def take(name):
        return weights.pop(f"{name}.weight").float()

    def norm(x, name):
        return take(name) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])

    def rotate_half(x):
        return torch.cat([-x[..., width // 2 :], x[..., : width // 2]], dim=-1)

    frequencies = config["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(tokens.shape[1]).float(), frequencies).repeat(1, 2)

    def split(x, n):
        return x.unflatten(-1, (n, width)).transpose(1, 2)

    def rotate(x):
        return x * angles.cos() + rotate_half(x) * angles.sin()

    def attend(x, at):
        q, k = rotate(split(x @ take(f"{at}.q_proj").T, heads)), rotate(split(x @ take(f"{at}.k_proj").T, kv_heads))
        v = split(x @ take(f"{at}.v_proj").T, kv_heads)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
        scores = (q @ k.transpose(-1, -2)) / width**0.5
        later = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
        attended = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return attended.transpose(1, 2).flatten(-2) @ take(f"{at}.o_proj").T

    def feed_forward(x, at):
        gated = F.silu(x @ take(f"{at}.gate_proj").T) * (x @ take(f"{at}.up_proj").T)
        return gated @ take(f"{at}.down_proj").T

    embedding = take("model.embed_tokens")
    assert embedding.shape == (config["vocab_size"], config["hidden_size"])
    hidden = embedding[tokens]
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        hidden = hidden + attend(norm(hidden, f"{layer}.input_layernorm"), f"{layer}.self_attn")
        hidden = hidden + feed_forward(norm(hidden, f"{layer}.post_attention_layernorm"), f"{layer}.mlp")
    output = embedding if config["tie_word_embeddings"] else take("lm_head")
    logits = norm(hidden, "model.norm") @ output.T
    assert not weights, "weights that a Llama does not have"
    return logits


@pytest.mark.parametrize("shape", [{}, LLAMA, {"tie_embeddings": True, "n_kv_heads": 1}], ids=str)
def test_an_export_gives_the_trained_models_logits_bit_for_bit_by_one_call(trained, tmp_path, shape):
    model, weights = trained(shape, HEADS)
    assert export(weights, tmp_path / "out", "safetensors") == []
    loaded = load_model(tmp_path / "out")
    assert torch.equal(loaded(TOKENS), model.base(TOKENS))
    assert not loaded.training
    exported = load_file(tmp_path / "out/model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(exported.pop(name.removeprefix("base.")), parameter), name
    assert not exported
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["heads"] == list(HEADS)
    assert config["tokenizer"] == {"kind": "bytes", "path": None}


@pytest.mark.parametrize("shape", [LLAMA, LLAMA | {"tie_embeddings": True, "n_kv_heads": None}], ids=str)
def test_a_pre_norm_model_is_a_llama_with_the_same_logits(trained, tmp_path, shape):
    model, weights = trained(shape, HEADS)
    (notice,) = export(weights, tmp_path / "out", "hf")
    assert notice.startswith("left out: the heads of coherence, paraphrase")
    torch.testing.assert_close(llama(tmp_path / "out", TOKENS), model.base(TOKENS), rtol=1e-5, atol=1e-5)


def test_an_export_in_bf16_is_the_rounded_model(trained, tmp_path):
    model, weights = trained(LLAMA)
    export(weights, tmp_path / "ours", "safetensors", "bf16")
    export(weights, tmp_path / "hf", "hf", "bf16")
    rounded = model.bfloat16().float().base(TOKENS)
    assert torch.equal(load_model(tmp_path / "ours")(TOKENS), rounded)
    torch.testing.assert_close(llama(tmp_path / "hf", TOKENS), rounded, rtol=1e-5, atol=1e-5)
    assert load_file(tmp_path / "hf/model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_large_model_is_cut_into_files_of_bounded_size_that_an_index_lists(trained, tmp_path):
    model, weights = trained(LLAMA)
    export(weights, tmp_path / "out", "hf", shard_bytes=20_000)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    total = 0
    for file in files:
        tensors = load_file(tmp_path / "out" / file)
        assert set(tensors) == {name for name, where in index["weight_map"].items() if where == file}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 20_000
        total += size
    assert index["metadata"]["total_size"] == total == 4 * model.base.config.n_parameters
    torch.testing.assert_close(llama(tmp_path / "out", TOKENS), model.base(TOKENS), rtol=1e-5, atol=1e-5)
    export(weights, tmp_path / "ours", "safetensors", shard_bytes=20_000)
    assert torch.equal(load_model(tmp_path / "ours")(TOKENS), model.base(TOKENS))
    (tmp_path / "ours" / files[1]).unlink()
    with pytest.raises(UserError, match=r"ours: layers\.\S+ is missing"):
        load_model(tmp_path / "ours")


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(trained, tmp_path):
    model, weights = trained({})
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"normalises before each branch.*--to safetensors"):
        export(weights, out, "hf")
    with pytest.raises(UserError, match="no such file or directory"):
        export(tmp_path / "none", out, "safetensors")
    with pytest.raises(UserError, match=r"needs its run's .*config.yaml"):
        export(weights.rename(tmp_path / "moved.safetensors"), out, "safetensors")
    save_file({"base.norm.weight": torch.ones(32)}, weights)
    with pytest.raises(UserError, match=r"step-00000007.safetensors: tok_embeddings.weight is missing, and 3\d more"):
        export(weights, out, "safetensors")
    save_file(dict(model.named_parameters()), weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved.safetensors", "run"]
    out.mkdir()
    with pytest.raises(UserError, match=r"out: exists already"):
        export(weights, out, "safetensors")


def test_no_export_is_made_among_checkpoints_nor_half_of_one(trained, tmp_path, limited_file_size):
    weights = trained(LLAMA)[1]
    checkpoint = tmp_path / "run/checkpoints/step-00000007"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").touch()
    for output in (checkpoint / "export", checkpoint.parent / "export"):
        with pytest.raises(UserError, match=r"holds checkpoints, and them alone; choose another output"):
            export(weights, output, "safetensors")
    before = sorted(tmp_path.rglob("*"))
    with limited_file_size(10_000), pytest.raises(NotWritten, match=r"export: File too large"):
        export(weights, tmp_path / "new/export", "safetensors")
    assert set(tmp_path.rglob("*")) - set(before) == {tmp_path / "new"}


def test_a_directory_of_another_kind_is_no_export(trained, tmp_path):
    export(trained(LLAMA)[1], tmp_path / "hf", "hf")
    with pytest.raises(UserError, match=r"config.json: not an export for genesis_ds; make one with --to safetensors"):
        load_model(tmp_path / "hf")
    with pytest.raises(UserError, match=r"config.json: not an export for genesis_ds"):
        load_model(Path(__file__).parents[2] / "data/legacy_deepnorm")

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import HEADS, LLAMA, TOKENS
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from genesis_ds import disk
from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models.export import export
from genesis_ds.disk import NotWritten
from genesis_ds.errors import UserError
from genesis_ds.stored import OtherVersion
from genesis_ds.tokenizer import load_tokenizer


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
    loaded = open_model(tmp_path / "out").decoder()
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
    assert torch.equal(open_model(tmp_path / "ours").decoder()(TOKENS), rounded)
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
    assert torch.equal(open_model(tmp_path / "ours").decoder()(TOKENS), model.base(TOKENS))
    (tmp_path / "ours" / files[1]).unlink()
    with pytest.raises(UserError, match=r"ours: layers\.\S+ is missing"):
        open_model(tmp_path / "ours").decoder()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(trained, tmp_path):
    model, weights = trained({})
    out = tmp_path / "out"
    for average in (False, True):
        with pytest.raises(UserError, match="no such file or directory"):
            export(tmp_path / "none", out, "safetensors", average=average)
    with pytest.raises(UserError, match="has no average of the weights beside them; give a run"):
        export(weights, out, "safetensors", average=True)
    with pytest.raises(UserError, match=r"weights: a directory of files of weights; give one of .*07\.saf"):
        export(weights.parent, out, "safetensors")
    export(weights, tmp_path / "exported", "safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: a file of a directory .*; give .*/exported$"):
        export(tmp_path / "exported/model.safetensors", out, "safetensors")
    shutil.rmtree(tmp_path / "exported")
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


@pytest.mark.parametrize(
    "shape", [{}, LLAMA, LLAMA | {"probabilities": "stablemax"}, {"tie_embeddings": True, "n_kv_heads": 1}], ids=str
)
def test_an_export_for_transformers_is_read_back_bit_for_bit(trained, tmp_path, shape):
    model, weights = trained(shape, HEADS)
    export(weights, tmp_path / "hf", "hf", shard_bytes=20_000)
    assert torch.equal(open_model(tmp_path / "hf").decoder()(TOKENS), model.base(TOKENS))
    export(tmp_path / "hf", tmp_path / "ours", "safetensors")
    assert torch.equal(open_model(tmp_path / "ours").decoder()(TOKENS), model.base(TOKENS))
    assert json.loads((tmp_path / "ours/config.json").read_text())["heads"] == []
    weights_of_another = load_file(tmp_path / "ours/model.safetensors") | {"score.weight": torch.ones(2)}
    save_file(weights_of_another, tmp_path / "ours/model.safetensors")
    with pytest.raises(UserError, match=r"ours: score.weight belongs to no part of the decoder"):
        open_model(tmp_path / "ours").decoder()


@pytest.mark.parametrize("to", ["safetensors", "hf"])
def test_an_export_holds_its_tokenizer_wherever_it_is_moved(trained, tmp_path, bpe, to, monkeypatch):
    weights = trained({"vocab_size": 300}, bpe=bpe)[1]
    export(weights, tmp_path / "out", to)
    expected = load_tokenizer("bpe", bpe).encode("the harbour <s>")
    bpe.unlink()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    tokenizer = open_model(Path("moved")).about["tokenizer"]
    assert tokenizer == {"kind": "bpe", "path": str(tmp_path / "moved/tokenizer.model")}
    monkeypatch.chdir("/")
    assert load_tokenizer(**tokenizer).encode("the harbour <s>") == expected
    export(tmp_path / "moved", tmp_path / "again", "safetensors")
    assert (tmp_path / "again/tokenizer.model").read_bytes() == (tmp_path / "moved/tokenizer.model").read_bytes()
    for file in (*(tmp_path / "moved").iterdir(), *(tmp_path / "again").iterdir()):
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_a_tokenizer_that_is_gone_or_another_by_now_is_said(trained, tmp_path, bpe):
    weights = trained({"vocab_size": 300}, bpe=bpe)[1]
    export(weights, tmp_path / "first", "safetensors")
    config = tmp_path / "first/config.json"
    said = json.loads(config.read_text())
    said["tokenizer"]["fingerprint"] = "0123456789abcdef"
    config.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"first: trained with the tokenizer 0123456789abcdef, and that of .*model is "):
        export(tmp_path / "first", tmp_path / "out", "safetensors")
    bpe.unlink()
    with pytest.raises(UserError, match=r"small.model: no such file; .*; give this command in the folder"):
        export(weights, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


def test_an_export_of_before_names_its_tokenizers_path_and_a_later_one_is_refused(trained, tmp_path, bpe):
    weights = trained({"vocab_size": 300}, bpe=bpe)[1]
    export(weights, tmp_path / "out", "safetensors")
    config = tmp_path / "out/config.json"
    said = json.loads(config.read_text()) | {"format_version": 1, "tokenizer": {"kind": "bpe", "path": str(bpe)}}
    config.write_text(json.dumps(said))
    assert open_model(tmp_path / "out").about["tokenizer"]["path"] == str(bpe)
    config.write_text(json.dumps(said | {"format_version": 3}))
    with pytest.raises(OtherVersion, match=r"format 3, written by genesis_ds .*reads 1 and 2; use the version"):
        open_model(tmp_path / "out")


@pytest.mark.parametrize("to", ["safetensors", "hf"])
def test_what_others_may_read_of_an_export_is_what_the_umask_says(trained, tmp_path, to, monkeypatch):
    monkeypatch.setattr(disk, "UMASK", 0o027)
    export(trained({}, HEADS)[1], tmp_path / "out", to)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_weights_that_share_memory_are_each_written(tmp_path):
    legacy = Path(__file__).parents[2] / "data/legacy_deepnorm"
    state = load_file(legacy / "model.safetensors")
    first, second = (name for name in state if name.endswith(("layers.0.attention.wq.weight", "1.attention.wq.weight")))
    state[second] = state[first]
    (tmp_path / "old").mkdir()
    torch.save({"model_state_dict": state}, tmp_path / "old/training_state.pt")
    shutil.copy(legacy / "config.json", tmp_path / "old/config.json")
    for to in ("safetensors", "hf"):
        export(tmp_path / "old", tmp_path / to, to)
        layers = open_model(tmp_path / to).decoder().layers
        assert torch.equal(layers[0].attention.wq.weight, state[first])
        assert torch.equal(layers[1].attention.wq.weight, state[first])

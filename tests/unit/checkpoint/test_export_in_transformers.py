"""What is exported for transformers gives the same there, without other code than the export's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import HEADS, LLAMA, TOKENS

from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models.export import export
from genesis_ds.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[3]


SHAPES = [
    {},
    {"tie_embeddings": True, "n_kv_heads": 2, "rope_theta": 500.0},
    {"probabilities": "stablemax"},
    LLAMA,
    LLAMA | {"tie_embeddings": True, "n_kv_heads": None},
    LLAMA | {"probabilities": "stablemax"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_the_trained_models_and_generation_with_a_cache_changes_nothing(
    transformers, trained, tmp_path, shape
):
    model, weights = trained(shape, HEADS)
    export(weights, tmp_path / "out", "hf")
    plain = shape.get("norm") == "rmsnorm" and "probabilities" not in shape
    assert (tmp_path / "out/modeling_genesis.py").exists() != plain
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=not plain)
    assert type(loaded).__name__ == ("LlamaForCausalLM" if plain else "GenesisForCausalLM")
    with torch.no_grad():
        seen = loaded(TOKENS, output_hidden_states=True)
        torch.testing.assert_close(seen.logits, model.base(TOKENS), rtol=1e-5, atol=1e-5)
    assert len(seen.hidden_states) == 4
    asked = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    cached, uncached = (loaded.generate(TOKENS[:, :9], use_cache=on, **asked) for on in (True, False))
    assert cached.shape == (2, 29)
    assert torch.equal(cached, uncached)
    loaded.save_pretrained(tmp_path / "saved_there")
    torch.testing.assert_close(open_model(tmp_path / "saved_there").decoder()(TOKENS), model.base(TOKENS))


@pytest.mark.parametrize("shape", [{}, LLAMA], ids=str)
def test_an_export_in_bf16_is_loaded_in_bf16(transformers, trained, tmp_path, shape):
    model, weights = trained(shape)
    export(weights, tmp_path / "out", "hf", "bf16")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert loaded.dtype == torch.bfloat16
    difference = loaded(TOKENS).logits.float() - model.base(TOKENS)
    assert difference.norm() / model.base(TOKENS).norm() < 0.02


def test_without_trust_a_deepnorm_model_is_refused_and_not_taken_for_a_llama(transformers, trained, tmp_path):
    export(trained({})[1], tmp_path / "out", "hf")
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_the_export_is_a_text_generation_pipeline(transformers, trained, tmp_path, monkeypatch):
    export(trained({"vocab_size": 260})[1], tmp_path / "out", "hf")
    monkeypatch.chdir("/")
    write = transformers.pipeline("text-generation", model=str(tmp_path / "out"), trust_remote_code=True)
    asked = {"max_new_tokens": 20, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
    (written,) = write("태초에 하나님이 ", do_sample=True, **asked)
    assert written["generated_text"].startswith("태초에 하나님이 ")
    assert len(write(["a longer prompt", "b"], batch_size=2, **asked)) == 2


@pytest.mark.parametrize("to", ["safetensors", "hf"])
@pytest.mark.parametrize("shape", [{}, LLAMA], ids=str)
def test_either_export_has_the_tokenizer_of_training(transformers, trained, tmp_path, bpe, to, shape):
    export(trained(shape | {"vocab_size": 300}, bpe=bpe)[1], tmp_path / "out", to)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = " the  boat <s>\n\u2581 배"
    assert theirs(text)["input_ids"] == load_tokenizer("bpe", bpe).encode(text)
    assert theirs.decode(theirs(text)["input_ids"]) == text


@pytest.mark.slow
def test_lm_eval_takes_an_export_and_a_task_of_ones_own(trained, tmp_path):
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    export(trained({"vocab_size": 260, "max_seq_len": 512})[1], tmp_path / "out", "hf")
    command = (
        f"-m lm_eval --model hf --model_args pretrained={tmp_path / 'out'},trust_remote_code=True --device cpu "
        f"--tasks verse_endings --include_path tests/docs/examples/lm_eval --output_path {tmp_path / 'found.json'}"
    )
    folders = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        env=os.environ | folders,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = tmp_path.glob("found*.json")
    result = json.loads(found.read_text())["results"]["verse_endings"]
    assert 0 <= result["acc,none"] <= 1

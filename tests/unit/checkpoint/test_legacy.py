import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models.legacy import load_model, read_legacy
from genesis_ds.cli import main
from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer

LEGACY = Path(__file__).parents[2] / "data/legacy_deepnorm"
EXPECTED = np.load(LEGACY / "expected.npz")
STEP = Path(__file__).parents[2] / "data/legacy_step_file/step_100.pt"
STEP_EXPECTED = np.load(STEP.parent / "expected.npz")
TINY = {"n_layers": 2, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50, "max_seq_len": 64}


def write(directory, weights, kind="safetensors", config=LEGACY / "config.json", **beside):
    """Write a checkpoint as the earlier Genesis Arbiter code does; beside: what else the pickle holds."""
    directory.mkdir(exist_ok=True)
    if kind == "safetensors":
        save_file(weights, directory / "model.safetensors")
    else:
        torch.save({"step": 123, "model_state_dict": weights, **beside}, directory / "training_state.pt")
    if config:
        shutil.copy(config, directory / "config.json")
    return directory


def legacy_weights(wrapped=False, **changes):
    """Return the weights of the stored checkpoint; a change of None leaves one out."""
    weights = load_file(LEGACY / "model.safetensors") | changes
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    if not wrapped:
        return weights
    heads = {"heads.coherence.hidden.weight": torch.ones(48, 192), "contrastive_head.0.bias": torch.ones(3)}
    return {f"base.{name}": weight for name, weight in weights.items()} | heads


def assert_gives_the_legacy_logits(model):
    logits = model(torch.from_numpy(EXPECTED["tokens"])).detach().numpy()
    assert np.abs(logits - EXPECTED["logits"]).max() < 1e-4


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_legacy_checkpoint_gives_its_logits_in_every_form(tmp_path, kind, wrapped):
    directory = write(tmp_path, legacy_weights(wrapped), kind, optimizer_state_dict={"state": {0: torch.ones(2)}})
    model = load_model(directory)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert_gives_the_legacy_logits(model)


def test_the_heads_of_a_wrapper_are_kept_for_a_run_that_continues(tmp_path):
    stored = read_legacy(write(tmp_path, legacy_weights(wrapped=True)))
    assert stored.tasks == ["coherence", "contrastive_head"]
    assert stored.tensors.read("heads.coherence.hidden.weight").sum() == 48 * 192


@pytest.mark.parametrize("shape", [{}, {"norm": "rmsnorm", "n_kv_heads": 2}, {"tie_embeddings": True}], ids=str)
def test_sizes_are_read_from_the_tensors(tmp_path, shape):
    torch.manual_seed(0)
    model = Transformer(ModelShape(**TINY | shape)).eval()
    (tmp_path / "said.json").write_text(json.dumps({"n_heads": 4, "max_seq_len": 64, "tie_embeddings": False} | shape))
    loaded = load_model(write(tmp_path / "model", model.state_dict(), "pickle", tmp_path / "said.json"))
    assert loaded.config == ModelShape(**TINY | {"n_kv_heads": 4} | shape)
    tokens = torch.arange(40).view(2, 20)
    assert torch.equal(loaded(tokens), model(tokens))


def test_the_number_of_heads_is_asked_for_and_taken(tmp_path):
    directory = write(tmp_path, legacy_weights(), config=None)
    with pytest.raises(UserError, match=r"number of heads is in no tensor; .* or put a config.json .* file$"):
        load_model(directory)
    shutil.copy(STEP, directory)
    with pytest.raises(UserError, match=r"beside the file, or .*step_100.pt, which says it itself$"):
        load_model(directory)
    assert_gives_the_legacy_logits(load_model(directory, n_heads=6))
    with pytest.raises(UserError, match=r"model.n_heads: 7 does not divide model.dim 48"):
        load_model(directory, n_heads=7)
    with pytest.raises(UserError, match=r"config.json: n_heads is 6, not 12"):
        load_model(LEGACY, n_heads=12)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers.2.attention.wk.weight": None}, r"layers\.2\.attention\.wk\.weight is missing"),
        ({"tok_embeddings.weight": None}, r"tok_embeddings\.weight is missing"),
        ({"output.weight": None}, r"output\.weight is missing"),
        ({"layers.1.bogus": torch.ones(2)}, r"layers\.1\.bogus belongs to no part of the decoder"),
        ({"norm.weight": torch.ones(47)}, r"norm\.weight has the shape \[47\], not \[48\]"),
        ({"layers.0.feed_forward.w1.weight": torch.ones(9)}, r"w1\.weight is no matrix but \[9\]"),
        ({"layers.4.ffn_norm.norm.bias": torch.ones(48)}, r"n_layers is 5, the config.json beside it says 4"),
        (
            {"layers.999999998.ffn_norm.norm.bias": torch.ones(48)},
            r"has a layer 999999998, but 5 layers in all; one is missing",
        ),
    ],
)
def test_a_tensor_missing_left_over_or_of_another_shape_is_named(tmp_path, kind, wrapped, changes, message):
    with pytest.raises(UserError, match=message):
        load_model(write(tmp_path, legacy_weights(wrapped, **changes), kind))


def test_of_two_files_the_one_without_code_is_read_and_the_other_not_opened(tmp_path):
    (write(tmp_path, legacy_weights()) / "training_state.pt").write_bytes(b"no pickle")
    assert_gives_the_legacy_logits(load_model(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"training_state.pt: damaged"):
        load_model(tmp_path)


def test_a_pickle_with_a_foreign_class_is_read_only_with_trust(tmp_path):
    directory = write(tmp_path, legacy_weights(), "pickle", learning_rate=Fraction(1, 3))
    with pytest.raises(UserError, match=r"fractions.Fraction.*--trust"):
        load_model(directory)
    assert_gives_the_legacy_logits(load_model(directory, trust=True))


def test_what_is_no_checkpoint_is_said_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"no model is there; give a file step_N.pt, or a directory with"):
        load_model(tmp_path)
    torch.save({"model": {}}, tmp_path / "training_state.pt")
    with pytest.raises(UserError, match=r"holds no model_state_dict"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((LEGACY / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.safetensors: damaged"):
        load_model(tmp_path)
    write(tmp_path, legacy_weights())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: damaged, it is not JSON"):
        load_model(tmp_path)


def step_file(path, weights=(), **changes):
    """Write the stored step file with changed weights and top-level values; None leaves one out."""
    state = torch.load(STEP, weights_only=True) | changes
    state["model_state_dict"] |= weights
    for holder in (state, state["model_state_dict"]):
        for name in [name for name, value in holder.items() if value is None]:
            del holder[name]
    torch.save(state, path)
    return path


def assert_gives_the_logits_of_the_step_file(model):
    logits = model(torch.from_numpy(STEP_EXPECTED["tokens"])).detach().numpy()
    assert np.abs(logits - STEP_EXPECTED["logits"]).max() < 1e-4


def test_a_step_file_says_its_own_shape_and_stays_tied(tmp_path):
    stored = open_model(STEP)
    assert (stored.config.n_heads, stored.config.tie_embeddings, stored.config.n_parameters) == (4, True, 123_712)
    assert stored.tasks == []
    assert stored.about["global_step"] == 100
    assert stored.notices == [
        "lm_head.weight is the output",
        "tied: lm_head.weight is base.tok_embeddings.weight",
        "not taken: optimizer_state_dict, scaler_state_dict, research_state",
    ]
    assert_gives_the_logits_of_the_step_file(load_model(STEP))
    shutil.copy(STEP, tmp_path / "training_state.pt")
    assert_gives_the_logits_of_the_step_file(load_model(tmp_path))


def test_the_weights_of_a_compiled_model_are_those_of_the_model(tmp_path):
    weights = torch.load(STEP, weights_only=True)["model_state_dict"]
    compiled = {f"_orig_mod.{name}": weight for name, weight in weights.items()} | dict.fromkeys(weights)
    assert_gives_the_logits_of_the_step_file(load_model(step_file(tmp_path / "step_1.pt", compiled)))


@pytest.mark.parametrize("left_out", ["base.output.weight", "lm_head.weight"])
def test_equal_tensors_of_two_storages_are_tied_too(tmp_path, left_out):
    embedding = torch.load(STEP, weights_only=True)["model_state_dict"]["base.tok_embeddings.weight"]
    weights = {"base.output.weight": embedding.clone(), "lm_head.weight": embedding.clone(), left_out: None}
    stored = read_legacy(step_file(tmp_path / "step_1.pt", weights))
    assert stored.config.tie_embeddings
    assert_gives_the_logits_of_the_step_file(stored.decoder())


def test_of_two_outputs_the_one_that_logits_come_of_is_taken_and_the_other_named(tmp_path):
    torch.manual_seed(0)
    weights = {"lm_head.weight": torch.randn(260, 64), "base.output.weight": torch.randn(260, 64)}
    stored = read_legacy(step_file(tmp_path / "step_1.pt", weights))
    assert not stored.config.tie_embeddings
    assert torch.equal(stored.tensors.read("base.output.weight"), weights["lm_head.weight"])
    assert "not taken: base.output.weight, which differs from lm_head.weight, the output" in stored.notices


def test_a_head_of_another_shape_than_the_outputs_stays_a_head(tmp_path):
    stored = read_legacy(step_file(tmp_path / "step_1.pt", {"lm_head.weight": torch.ones(3, 64)}))
    assert stored.tasks == ["lm_head"]
    assert_gives_the_logits_of_the_step_file(stored.decoder())


def test_an_import_prints_what_was_taken_and_the_largest_difference_of_logits(tmp_path, capsys):
    assert main(["checkpoint", "import", str(STEP), str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "123,712 parameters" in shown
    assert "not taken: optimizer_state_dict, scaler_state_dict, research_state" in shown
    differences = [float(line.split()[3]) for line in shown.splitlines() if line.startswith("largest logit")]
    assert len(differences) == 2
    assert max(differences) < 1e-4
    assert_gives_the_logits_of_the_step_file(open_model(tmp_path / "out").decoder())


@pytest.mark.parametrize("shape", [{}, {"norm": "rmsnorm", "n_kv_heads": 2, "rope_theta": 500.0}], ids=str)
def test_an_import_of_any_shape_is_compared_with_a_forward_pass_of_its_own(tmp_path, capsys, shape):
    torch.manual_seed(0)
    model = Transformer(ModelShape(**TINY | shape))
    (tmp_path / "said.json").write_text(json.dumps({"n_heads": 4} | {k: v for k, v in shape.items() if k != "norm"}))
    directory = write(tmp_path / "model", model.state_dict(), config=tmp_path / "said.json")
    assert main(["checkpoint", "import", str(directory), str(tmp_path / "out")]) == 0
    assert float(capsys.readouterr().out.partition("largest logit difference ")[2].split()[0]) < 1e-5


def test_an_import_that_gives_other_logits_exits_with_1(tmp_path, capsys):
    step_file(tmp_path / "step_1.pt")
    np.savez(tmp_path / "expected.npz", tokens=STEP_EXPECTED["tokens"], logits=STEP_EXPECTED["logits"] + 1)
    assert main(["checkpoint", "import", str(tmp_path / "step_1.pt"), str(tmp_path / "out")]) == 1
    assert "is not the model that was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"n_heads": 4, "dim": 96}}, r"dim is 64, its own config says 96; it belongs to another model"),
        ({"config": {"n_heads": 5}}, r"step_1.pt: model.n_heads: 5 does not divide model.dim 64"),
        ({"config": {"n_heads": "four"}}, r"step_1.pt: config: n_heads: .* not \"four\""),
        ({"config": {"n_heads": 4, "norm_type": "rmsnorm"}}, r"norm_type is deepnorm, its own config says rmsnorm"),
        ({"config": None}, r"the number of heads is in no tensor; give n_heads"),
        ({"model_state_dict": {"weight": 1}}, r"holds no model_state_dict of tensors"),
        ({"research_state": Fraction(1, 3)}, r"fractions.Fraction.*--trust"),
    ],
    ids=str,
)
def test_a_step_file_that_contradicts_itself_is_refused_in_a_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_model(step_file(tmp_path / "step_1.pt", **changes))


def test_a_directory_of_step_files_names_the_newest(tmp_path):
    for step in (9, 100):
        (tmp_path / f"step_{step}.pt").touch()
    with pytest.raises(UserError, match=r"no model is there; give a file step_N.pt, such as .*step_100.pt"):
        open_model(tmp_path)
    with pytest.raises(UserError, match=r"step_9.pt: damaged, or not a file of tensors"):
        open_model(tmp_path / "step_9.pt")

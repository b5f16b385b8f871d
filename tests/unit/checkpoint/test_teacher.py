"""Which models may teach a run."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genesis_ds.checkpoint.load.teacher import open_teacher, teacher_shapes
from genesis_ds.checkpoint.models.export import export
from genesis_ds.config import BatchConfig, DistillConfig, ModelConfig, RunConfig, SamplesConfig
from genesis_ds.config.parse import run_of
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes").fingerprint
TOKENS = torch.arange(64).view(2, 32)


def run(*paths, seq_len=32, vocab_size=260):
    return RunConfig(
        model=ModelConfig(vocab_size=vocab_size),
        batch=BatchConfig(seq_len=seq_len),
        samples=SamplesConfig(new_tokens=0),
        distill=DistillConfig([*map(str, paths)]),
    )


def opened(config, tokenizer=BYTES):
    return open_teacher(config, config.model.of_vocabulary(config.model.vocab_size), tokenizer)


def test_files_of_weights_and_exports_are_members_and_their_shapes_are_known_to_a_plan(trained, tmp_path):
    model, weights = trained({"vocab_size": 260})
    export(weights, tmp_path / "exported", "safetensors")
    config = run(weights, tmp_path / "exported")
    teacher = opened(config)
    with torch.no_grad():
        expected = model.base(TOKENS).softmax(-1)
    torch.testing.assert_close(teacher.probabilities(TOKENS), expected)
    assert teacher.shapes == teacher_shapes(config)
    assert [shape.dim for shape in teacher.shapes] == [32, 32]


def test_what_cannot_teach_the_run_is_one_line(trained, tmp_path, bpe):
    _, weights = trained({"vocab_size": 260})
    for config, tokenizer, said in (
        (run("nowhere"), BYTES, r"nowhere: no such file or directory; give a checkpoint"),
        (run(weights, vocab_size=300), BYTES, r"a model of 260 token ids, and this run's has 300; give one of the run"),
        (run(weights, seq_len=64), BYTES, r"a model of windows of 32 tokens, and batch.seq_len is 64; give one of"),
        (run(weights), load_tokenizer("bpe", str(bpe)).fingerprint, r"has another tokenizer than this run; give one"),
    ):
        with pytest.raises(UserError, match=rf"^distill\.teacher: .*{said}") as caught:
            opened(config, tokenizer)
        assert "\n" not in str(caught.value)
    own = tmp_path / "own"
    shutil.copytree(weights.parents[2], own)
    described = yaml.safe_load((own / "config.yaml").read_text()) | {"extensions": {"model": "mine:Model"}}
    (own / "config.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(UserError, match=r"^distill\.teacher: .*a model of mine:Model"):
        opened(run(own / "checkpoints/weights" / weights.name))


def test_weights_that_are_not_finite_teach_nothing(trained, tmp_path):
    _, weights = trained({"vocab_size": 260})
    export(weights, tmp_path / "exported", "safetensors")
    (file,) = (tmp_path / "exported").glob("*.safetensors")
    tensors = load_file(file)
    tensors["layers.0.attention.wq.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    said = r"exported: layers\.0\.attention\.wq\.weight has weights that are not finite numbers"
    with pytest.raises(UserError, match=rf"^distill\.teacher: .*{said}"):
        opened(run(tmp_path / "exported"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"distill": {"weight": 0.3}}, "distill.weight: needs distill.teacher as well"),
        ({"distill": {"teacher": ["a"], "weight": 0}}, "distill.weight: 0.* is not allowed; give a share above 0"),
        ({"distill": {"teacher": ["a"], "temperature": 0}}, "distill.temperature: 0.* is not allowed; give a positive"),
        ({"distill": {"teacher": [""]}}, "distill.teacher: the path is empty"),
        ({"distill": {"teacher": ["a"]}, "tasks": {"coherence": 1}}, "distill.teacher: is of the task lm"),
        (
            {"distill": {"teacher": ["a"]}, "activation_checkpointing": {"loss_chunk": 8}},
            "activation_checkpointing.loss_chunk: 8 leaves no logits of whole windows, and distill.teacher takes them",
        ),
        ({"distill": {"teacher": ["a"]}, "arithmetic": {"modulus": 7}}, "leave out distill.teacher, or arithmetic"),
    ],
)
def test_fields_that_do_not_go_together_are_one_line(values, said):
    with pytest.raises(UserError, match=said):
        run_of(values)


def test_a_home_directory_is_that_of_the_user_in_each_path_of_a_list(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert run_of({"distill": {"teacher": ["~/a", "b"]}}).distill.teacher == ["/home/me/a", "b"]

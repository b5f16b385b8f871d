"""A model of a user's own, in one module that `extensions.model` names, is trained, judged, saved and resumed."""

import sys
from pathlib import Path

import pytest
from test_train_command import losses, records

from genesis_ds.checkpoint.load.sources import open_model

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
CONFIGS = Path(__file__).parents[2] / "ds_configs"
OWN = ("--extensions.model", "toy_model:Gru", "--model.options.dropout", 0.1)


@pytest.fixture
def train(train_py):
    """Start a run in the directory of the examples, which is where its model is imported from."""

    def start(name, *arguments, **how):
        done = train_py("--name", name, *OWN, *arguments, cwd=EXAMPLES, **how)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return start


def assert_resumed_bit_for_bit(runs, stdout):
    """The steps after the checkpoint, and what was measured at the end, are those of the run that was never stopped."""
    assert "resumed" in stdout
    assert {step: losses(runs / "parts")[step] for step in (3, 4)} == {
        step: losses(runs / "whole")[step] for step in (3, 4)
    }
    of_parts, of_whole = (records(runs / name)[-1] for name in ("parts", "whole"))
    measured = [name for name in of_whole if name.startswith(("val/", "trajectory/", "sample/"))]
    assert {name.partition("/")[0] for name in measured} == {"val", "trajectory", "sample"}
    assert all(of_parts[name] == of_whole[name] for name in measured)


def test_it_learns_is_judged_saved_and_resumed_bit_for_bit(train, train_py, tmp_path):
    zero2, runs = ("--ds_config", CONFIGS / "zero2.json"), tmp_path / "runs"
    whole = train("whole", *zero2, "--checkpoint.weights_per_decade", 1)
    train("parts", *zero2, "--max_steps", 2)
    assert_resumed_bit_for_bit(runs, train("parts", *zero2))
    n_weights = 2 * (4 * 2 * 32 + 6 * 32 * 32 + 6 * 32 - 4 * 32 - 2 * 32) + 2 * 260 * 32 + 32
    assert f"2 layers x 32, toy_model:Gru, {n_weights:,} parameters" in whole
    assert "without coherence: toy_model:Gru does not take documents" in whole
    assert "without alignment: toy_model:Gru does not take documents" in whole

    begin = ("--init_from", runs / "whole/checkpoints/step-00000004")
    taught = train("taught", *zero2, *begin, "--max_steps", 30, "--optimizer.lr", 1e-2)
    assert "init       weights of" in taught
    assert losses(runs / "taught")[30] < 0.8 * losses(runs / "taught")[1]

    other = train_py("--name", "parts", *zero2, *OWN, "--model.options.dropout", 0.2, "--max_steps", 6, cwd=EXAMPLES)
    assert other.returncode == 2
    assert "saved with model.options {'dropout': 0.1}, this run has {'dropout': 0.2}; give the saved" in other.stdout
    for stored in ("checkpoints/step-00000004", "checkpoints/weights/step-00000004.safetensors"):
        model = open_model(runs / "whole" / stored)
        assert sum(shape.numel() for shape in model.tensors.shapes.values()) == n_weights
    assert "toy_model" not in sys.modules, "only a run's own YAML and flags are imported from"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_two_ranks_of_zero3_resume_bit_for_bit_and_begin_with_the_weights_of_one(
    train, train_py, tmp_path, checkpointing
):
    zero3 = ("--ds_config", CONFIGS / "zero3.json", "--model.options.dropout", 0.0)
    recomputed = ("--activation_checkpointing.mode", checkpointing, "--batch.micro_batch_size", 2)
    runs = tmp_path / "runs"
    train("whole", *zero3, *recomputed, ranks=2)
    train("parts", *zero3, *recomputed, "--max_steps", 2, ranks=2)
    assert_resumed_bit_for_bit(runs, train("parts", *zero3, *recomputed, ranks=2))
    train("alone", *zero3)
    of_two, of_one = losses(runs / "whole"), losses(runs / "alone")
    assert [of_two[step] for step in of_one] == pytest.approx([*of_one.values()], rel=1e-5)
    decoder = train_py("--name", "alone", *zero3[:2], "--max_steps", 6, cwd=EXAMPLES)
    assert "saved with extensions.model toy_model:Gru, this run has off; give the saved value" in decoder.stdout

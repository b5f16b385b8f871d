"""How long a run takes, in a line."""

from dataclasses import replace

import pytest

from genesis_ds.cli import main
from genesis_ds.config import ArithmeticConfig, BatchConfig, DataConfig, RunConfig
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import prepare_data
from genesis_ds.memory.answers.duration import duration, tokens_per_epoch

BATCH = BatchConfig(seq_len=64, micro_batch_size=2, global_batch_size=4)


@pytest.fixture
def run(tmp_path):
    save_corpus(synthetic_corpus(), str(tmp_path / "corpus"))
    data = DataConfig(corpus=str(tmp_path / "corpus"), token_sets=str(tmp_path / "token_sets"))
    return RunConfig(data=data, batch=BATCH, tasks={"lm": 0.5, "coherence": 0.5}, max_epochs=100)


def test_an_epoch_has_the_tokens_that_the_corpus_is_compiled_into(run):
    counted = tokens_per_epoch(run)
    tokens = prepare_data(run).token_set.manifest.tokens
    assert counted == 2 * sum(tiers["train"] for tiers in tokens.values())
    takes = duration(run, counted / 864)
    assert str(takes) == f"100 epochs of this corpus: 1.00 days at {counted / 864:,.0f} tokens/s"
    assert takes.days == pytest.approx(1)


def test_a_run_whose_corpus_is_not_there_says_so(run, tmp_path):
    takes = duration(replace(run, data=DataConfig(corpus=str(tmp_path / "none"))), 1000.0)
    assert takes.days is None
    assert str(takes).startswith(f"how long 100 epochs take is not known: no corpus at {tmp_path / 'none'}")


def test_steps_are_told_beside_ten_thousand_epochs():
    batch = BatchConfig(seq_len=3, micro_batch_size=2, global_batch_size=4)
    run = RunConfig(batch=batch, arithmetic=ArithmeticConfig(modulus=7), tasks={"lm": 1.0}, max_steps=10)
    line = str(duration(run, 100.0))
    assert line.startswith("the run's 120 tokens: 0.00 days; 10,000 epochs of this corpus: ")
    assert line.endswith(" days at 100 tokens/s")


@pytest.mark.parametrize("speed", ["-1", "0", "nan"])
def test_a_speed_that_is_none_is_one_line(speed, capsys):
    assert main(["memory", "--hardware", "rtx4070", "--tokens_per_second", speed]) == 2
    error = capsys.readouterr().err
    assert "--tokens_per_second" in error
    assert error.count("\n") == 1

"""How long a run takes at a speed: its own length, and epochs of its corpus."""

from dataclasses import dataclass

from genesis_ds.config import RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.data.token_set import count_training_tokens
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.load import weights
from genesis_ds.tokenizer import load_tokenizer

EPOCHS = 10_000
"""Epochs of which the time is told where a run's length is not given in epochs."""
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Duration:
    """How long a run takes at a speed."""

    tokens_per_second: float
    n_tokens: int
    """Of the run, 0 where its length is given in epochs or not at all."""
    n_epochs: float
    epoch_tokens: float | None
    """None where it is not known."""
    problem: str = ""
    """Why it is not."""

    @property
    def days(self) -> float | None:
        """Days that the epochs take."""
        return None if self.epoch_tokens is None else self._days(self.n_epochs * self.epoch_tokens)

    def __str__(self) -> str:
        """Return it in a line."""
        own = f"the run's {self.n_tokens:,} tokens: {_shown(self._days(self.n_tokens))}; " if self.n_tokens else ""
        if self.days is None:
            return f"{own}how long {self.n_epochs:,g} epochs take is not known: {self.problem}"
        speed = f"{self.tokens_per_second:,.0f} tokens/s"
        return f"{own}{self.n_epochs:,g} epochs of this corpus: {_shown(self.days)} at {speed}"

    def _days(self, n_tokens: float) -> float:
        return n_tokens / self.tokens_per_second / SECONDS_PER_DAY


def duration(run: RunConfig, tokens_per_second: float) -> Duration:
    """Return how long the run's epochs take, 10,000 where it has no number of them, and its own tokens if it has."""
    batch = run.batch
    n_tokens = run.max_tokens or (run.max_steps or 0) * batch.global_batch_size * batch.seq_len
    try:
        per_epoch, problem = tokens_per_epoch(run), ""
    except UserError as error:
        per_epoch, problem = None, str(error)
    return Duration(tokens_per_second, n_tokens, run.max_epochs or EPOCHS, per_epoch, problem)


def tokens_per_epoch(run: RunConfig) -> float:
    """Return the tokens of all tasks in an epoch of language modelling.

    Raises UserError in a run without it, and where its corpus cannot be read.
    """
    of = weights(run)
    if LM not in of:
        raise UserError("epochs are of the task lm, which this run leaves out")
    config = run.arithmetic
    if config.modulus:
        table = arithmetic_table(config.modulus, config.operation, config.train_share, config.split_seed)
        return len(table.train) * run.batch.seq_len
    corpus = load_corpus(run.data.corpus)
    tokenizer = load_tokenizer(run.tokenizer.kind, run.tokenizer.path)
    n_tokens = count_training_tokens(
        corpus, run.data.languages, tokenizer=tokenizer, split=split_verses(corpus, run.data.split_seed)
    )
    return n_tokens * sum(of.values()) / of[LM]


def _shown(days: float) -> str:
    return f"{days:,.0f} days" if days >= 10 else f"{days:.2f} days"

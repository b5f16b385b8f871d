"""How samples of text are drawn."""

from dataclasses import dataclass

from genesis_ds.config.checks import require, require_count, require_positive

HOTTEST = 1000
"""The temperature at which all tokens are as likely, nearly."""
MOST_SAMPLES, MOST_TOKENS = 1024, 10**6


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to write on: the repetition penalty comes first, then the temperature, then top_k, then top_p.

    Raises UserError for values that are not allowed.
    """

    max_new_tokens: int = 128
    """Tokens that are written at most."""
    temperature: float = 0.7
    """By which logits are divided; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw among the k likeliest tokens (arXiv 1805.04833); 0 among all."""
    top_p: float = 1.0
    """Draw among the fewest tokens that have this probability together (arXiv 1904.09751)."""
    repetition_penalty: float = 1.0
    """By which logits of tokens that are there already are divided, or multiplied where they are negative (arXiv
    1909.05858); 1 changes nothing."""
    stop: tuple[str, ...] = ()
    """Strings before which the text ends."""
    n: int = 1
    """Samples."""
    seed: int | None = None
    """Makes the samples reproducible. None: another one each time."""

    def __post_init__(self) -> None:
        allowed = f"a number from 0 to {HOTTEST:,}; 0 takes the likeliest token"
        require("temperature", self.temperature, 0 <= self.temperature <= HOTTEST, allowed)
        require("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, at most 1")
        penalty = self.repetition_penalty
        allowed = f"a number from {1 / HOTTEST:g} to {HOTTEST:,}; 1 is none"
        require("repetition_penalty", penalty, 1 / HOTTEST <= penalty <= HOTTEST, allowed)
        several = not isinstance(self.stop, str) and all(self.stop)
        require("stop", repr(self.stop), several, "a list of strings that are not empty")
        for name in ("n", "max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            require(name, repr(value), type(value) is int or (name, value) == ("seed", None), "a whole number")
        require_positive("n", self.n, MOST_SAMPLES)
        require_positive("max_new_tokens", self.max_new_tokens, MOST_TOKENS)
        require_count("top_k", self.top_k)
        require("seed", self.seed, 0 <= (self.seed or 0) < 2**63, "a whole number from 0 to 2^63 - 1")

"""The measurements of a run, and how often they are made."""

from dataclasses import dataclass, field
from typing import Literal

from genesis_ds.config.checks import MOST_PER_DECADE, require, require_count, require_duration, require_positive
from genesis_ds.config.durations import Duration
from genesis_ds.config.sampling import HOTTEST

WINDOWS, WINDOWS_OF_A_SPLIT = 8, 64
"""Windows of a split on which language modelling is judged where nothing is said: of a language, and in all."""
MOST_CANARIES = 1000
CONCEPTS = {
    "salvation": ["salvation", "saved", "saveth", "saviour*", "savior*", "redeem*", "redemption", "deliverer*"],
    "creation": ["create*", "creation", "creator", "creature", "firmament", "maker", "foundation* of the world"],
    "covenant": ["covenant*", "testament*", "oath*", "sware", "sworn", "promise", "promises", "promised"],
    "judgment": ["judgment*", "judgement*", "judge", "judged", "judges", "judgeth", "judging", "condemn*", "vengeance"],
}
CONNECTIVES = {
    "en": ["and", "but", "or", "nor", "because", "therefore", "wherefore", "if", "though", "although", "thus", "lest"],
    "es": ["y", "e", "o", "mas", "pero", "empero", "sino", "porque", "pues", "por tanto", "si", "aunque"],
    "ko": ["그리고", "또", "또한", "그러나", "오직", "그러므로", "이러므로", "그런즉", "만일", "대저", "이에"],
}


@dataclass(frozen=True)
class EvaluationConfig:
    """Bits per byte on the validation splits, and each task's measures."""

    every: Duration = 200
    """Steps (or "N epochs") between evaluations; one more is made at the end. 0: only at the end."""
    per_decade: int = 0
    """So many evaluations from every power of ten of steps to the next as well, for as long as they are closer together
    than `every`. 32 finds what happens early in a long run."""
    tasks_every: Duration = 10_000
    """Steps (or "N epochs") between evaluations of the tasks other than lm, which cost more to judge. 0: only at the
    end."""
    max_windows: int | None = None
    """Windows per split and language, evenly spaced over it, or equations of arithmetic; 0: all of them. None: 8, and
    in a run of more than 8 languages fewer, 64 of a split in all and 1 of a language at least."""
    max_verses: int = 1200
    """Verses per split and task on which coherence, cross_reference and paraphrase are judged; 0: all of them."""
    strata: bool = True
    """Whether language modelling is also judged on words that training has in a run of five and on those that it has
    not, and on names, numerals and connectives."""
    memorisation_verses: int = 64
    """Verses of training, and as many of validation, of each language of which is asked whether they are known by
    heart: before the first step, at the first, every tenth and the last evaluation, and at the one after an event; 0:
    none."""

    def __post_init__(self) -> None:
        require_duration("evaluation.every", self.every)
        require_duration("evaluation.tasks_every", self.tasks_every)
        require_count("evaluation.per_decade", self.per_decade, MOST_PER_DECADE)
        if self.max_windows is not None:
            require_count("evaluation.max_windows", self.max_windows)
        require_count("evaluation.memorisation_verses", self.memorisation_verses)
        enough = self.max_verses == 0 or self.max_verses >= 32
        require("evaluation.max_verses", self.max_verses, enough, "0 for all of them, or 32 and more")

    def windows(self, n_languages: int) -> int:
        """Return max_windows, or what stands for None in a run of so many languages."""
        if self.max_windows is not None:
            return self.max_windows
        return max(1, min(WINDOWS, WINDOWS_OF_A_SPLIT // n_languages))


@dataclass(frozen=True)
class MemorisationConfig:
    """What else of memorisation is asked, at the same evaluations as of evaluation.memorisation_verses."""

    canaries: int = 0
    """Random sequences that language modelling is given among its text, so that how well they are known can be compared
    with how often they were seen (arXiv 1802.08232); 16 tell four numbers of repetitions apart. 0: none; they change
    what is trained on."""
    repetitions: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    """How often each is seen in an epoch: the first canary as often as the first number says, and so on in turn."""
    second_translation: bool = True
    """Whether verses are also asked for in the words of a translation of the same language that the corpus has and the
    run does not train on."""

    def __post_init__(self) -> None:
        require_count("memorisation.canaries", self.canaries, MOST_CANARIES)
        require("memorisation.repetitions", self.repetitions, len(self.repetitions) > 0, "one number or more")
        for n in self.repetitions:
            require_positive("memorisation.repetitions", n)


@dataclass(frozen=True)
class SamplesConfig:
    """Text the model writes on its own, one sample per language, each after the opening of a validation chapter and
    before what follows it there."""

    every: Duration = 0
    """Steps (or "N epochs") between samples; one more is made at the end. 0: only at the end."""
    prompt_tokens: int = 32
    """Tokens of the opening that are given; fewer where these would end within a word."""
    new_tokens: int = 96
    """Tokens that are written."""
    temperature: float = 0.7
    """Softmax temperature; 0 takes the most likely token."""
    languages: list[str] = field(default_factory=list)
    """Languages of which there are samples; empty: all of the run."""

    def __post_init__(self) -> None:
        require_duration("samples.every", self.every)
        require_positive("samples.prompt_tokens", self.prompt_tokens)
        require_count("samples.new_tokens", self.new_tokens)
        require("samples.temperature", self.temperature, 0 <= self.temperature <= HOTTEST, f"0 to {HOTTEST:,}")

    @property
    def longest(self) -> int:
        """Tokens of the longest input; the last new token is never part of one."""
        return self.prompt_tokens + self.new_tokens - 1


@dataclass(frozen=True)
class GrokkingConfig:
    """Detection of grokking, for each task and language on its own."""

    rule: Literal["states", "window", "none"] = "states"
    """states: a state machine from memorisation to generalisation; window: a drop of the mean validation loss from one
    half of a window to the other, for comparison; none: no detection, and no evaluation on training data."""
    split: Literal["val_chapter", "val_book"] = "val_chapter"
    """The validation split whose curves are looked at."""


@dataclass(frozen=True)
class TrajectoryConfig:
    """Norms of weights, gradients and updates, size of the logits, effective rank of the hidden states."""

    every: Duration = 500
    """Steps (or "N epochs") between measurements; more are made at the first step and at the end. 0: never."""

    def __post_init__(self) -> None:
        require_duration("trajectory.every", self.every)


@dataclass(frozen=True)
class AlignmentConfig:
    """How alike verses lie in the hidden states of two languages: fitted on half of val_chapter, measured on half."""

    every: Duration = 500
    """Steps (or "N epochs") between measurements; one more is made at the end. 0: never."""
    languages: list[str] = field(default_factory=list)
    """Languages of which every two are compared; empty: those of en, es and ko that the run has, or its first three."""
    max_verses: int = 200
    """Verses of each language, both halves together; 0: all of val_chapter. Measured is on 100 of them at most, so that
    runs compare: retrieval is easier among fewer."""
    standardize: bool = False
    """Whether every dimension is brought to mean 0 and standard deviation 1 in each language first, so that no single
    one decides."""

    def __post_init__(self) -> None:
        require_duration("alignment.every", self.every)
        require("alignment.languages", self.languages, len(self.languages) != 1, "two or more, or none")
        enough = self.max_verses == 0 or self.max_verses >= 32
        require("alignment.max_verses", self.max_verses, enough, "0 for all of them, or 32 and more")


@dataclass(frozen=True)
class ClusteringConfig:
    """Whether validation verses of one concept lie together in the hidden states, whatever their language."""

    every: Duration = 2000
    """Steps (or "N epochs") between measurements; one more is made at the end. 0: never."""
    languages: list[str] = field(default_factory=list)
    """Languages whose verses are clustered; empty: those of en, es and ko that the run has, or its first three."""
    max_verses: int = 512
    """Verses of each language, shared out equally over the concepts; 0: all verses of exactly one concept."""
    concepts: dict[str, list[str]] = field(default_factory=lambda: {name: [*words] for name, words in CONCEPTS.items()})
    """Concept -> words and phrases that name it, whole and in any case; one that ends in * stands for all words that
    begin like it. A verse with words of several concepts counts for none."""
    keyword_language: str = "en"
    """The language of these words. The concept of a verse in it is that of its translations as well."""
    topics: str | None = None
    """A file with a topic, a tab and a reference (Genesis 1:1) in each line, in the place of the words."""

    def __post_init__(self) -> None:
        require_duration("clustering.every", self.every)
        enough = self.max_verses == 0 or self.max_verses >= 32
        require("clustering.max_verses", self.max_verses, enough, "0 for all of them, or 32 and more")
        require("clustering.concepts", list(self.concepts), len(self.concepts) >= 2, "two or more")
        for concept, words in self.concepts.items():
            named = bool(words) and all(word.strip(" *") for word in words)
            require(f"clustering.concepts.{concept}", words, named, "words of one letter or more")


@dataclass(frozen=True)
class ConnectivesConfig:
    """How many of a language's logical connectives the model foresees in the validation text."""

    every: Duration = 0
    """Steps (or "N epochs") between measurements; one more is made at the end. 0: never."""
    words: dict[str, list[str]] = field(default_factory=lambda: {name: [*words] for name, words in CONNECTIVES.items()})
    """Language of the run -> its connectives, as in clustering.concepts; languages without a list are left out."""
    max_windows: int = 64
    """Windows per split and language, evenly spaced over it; 0: all of them."""

    def __post_init__(self) -> None:
        require_duration("connectives.every", self.every)
        require_count("connectives.max_windows", self.max_windows)
        for language, words in self.words.items():
            named = bool(words) and all(word.strip(" *") for word in words)
            require(f"connectives.words.{language}", words, named, "words of one letter or more")

"""The configuration of a run: dataclasses and their checks. Nothing here knows about YAML or argparse.

Every field is documented where it stands; `genesis-ds` and `launch/train.py` show the same text under --help.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from genesis_ds.config_analysis import AlignmentConfig, ClusteringConfig, ConnectivesConfig, TrajectoryConfig
from genesis_ds.config_checks import require, require_duration, require_positive
from genesis_ds.durations import Duration
from genesis_ds.errors import UserError

AttentionBackend = Literal["auto", "flash_attn", "sdpa_flash", "sdpa"]
Precision = Literal["auto", "bf16", "fp32"]
Operation = Literal["add", "subtract", "multiply"]
ARITHMETIC_SEQ_LEN = 3
"""Tokens of an arithmetic sequence: a, b and the sign =."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-style decoder."""

    preset: str | None = None
    """Name of a shape in genesis_ds/presets.py; the fields given beside it override it."""
    n_layers: int = 8
    """Number of decoder blocks."""
    dim: int = 128
    """Width of the residual stream."""
    n_heads: int = 2
    """Number of query heads; divides dim."""
    n_kv_heads: int | None = None
    """Number of key/value heads (grouped-query attention); divides n_heads. None: as many as n_heads."""
    intermediate_size: int = 512
    """Width of the SwiGLU feed-forward layer."""
    vocab_size: int | None = None
    """Number of token ids. None: the tokenizer's."""
    max_seq_len: int = 4096
    """Longest sequence in tokens the model accepts."""
    norm: Literal["deepnorm", "rmsnorm"] = "deepnorm"
    """deepnorm: LayerNorm(alpha x + f(x)), arXiv 2203.00555. rmsnorm: pre-norm, x + f(RMSNorm(x))."""
    init: Literal["auto", "deepnorm", "default"] = "auto"
    """Weight initialisation. deepnorm: Xavier with gain beta; default: torch's own. auto follows `norm`."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output matrix."""
    attention: AttentionBackend = "auto"
    """Attention kernel. auto: the flash-attn package on a GPU where it is installed, otherwise torch's SDPA."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "dim", "n_heads", "intermediate_size", "max_seq_len"):
            require_positive("model", name, getattr(self, name))
        require("model", "rope_theta", self.rope_theta, 1 <= self.rope_theta < math.inf, "a number of 1 or more")
        if self.n_kv_heads is not None:
            require_positive("model", "n_kv_heads", self.n_kv_heads)
        if self.vocab_size is not None:
            require_positive("model", "vocab_size", self.vocab_size)
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 2:
            valid = [h for h in range(1, self.dim // 2 + 1) if self.dim % h == 0 and (self.dim // h) % 2 == 0]
            raise UserError(
                f"model.n_heads: {self.n_heads} does not divide model.dim {self.dim} into even head widths; "
                f"valid for this dim: {_listed(valid)}"
            )
        if self.n_heads % self.kv_heads:
            valid = [h for h in range(1, self.n_heads + 1) if self.n_heads % h == 0]
            raise UserError(
                f"model.n_kv_heads: {self.n_kv_heads} does not divide model.n_heads {self.n_heads}; "
                f"valid: {_listed(valid)}"
            )
        if self.init == "deepnorm" and self.norm != "deepnorm":
            raise UserError("model.init: 'deepnorm' needs model.norm 'deepnorm'; use 'auto' or 'default'")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, n_heads where n_kv_heads is None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width K of one head."""
        return self.dim // self.n_heads

    @property
    def vocabulary(self) -> int:
        """vocab_size, once it is known."""
        assert self.vocab_size is not None, "vocab_size is filled in from the tokenizer before the model is built"
        return self.vocab_size

    @property
    def initialisation(self) -> Literal["deepnorm", "default"]:
        """`init` with auto resolved."""
        if self.init != "auto":
            return self.init
        return "deepnorm" if self.norm == "deepnorm" else "default"

    @property
    def residual_alpha(self) -> float:
        """DeepNorm's residual scale alpha = (2N)^(1/4) for a decoder of N layers, arXiv 2203.00555, figure 2."""
        return (2 * self.n_layers) ** 0.25

    @property
    def init_beta(self) -> float:
        """DeepNorm's initialisation gain beta = (8N)^(-1/4) for a decoder of N layers, arXiv 2203.00555, figure 2."""
        return (8 * self.n_layers) ** -0.25

    @property
    def n_parameters(self) -> int:
        """Number of weights, computed from the shape."""
        attention = 2 * self.dim * (self.n_heads + self.kv_heads) * self.head_dim
        feed_forward = 3 * self.dim * self.intermediate_size
        norms = 2 * self.dim * (2 if self.norm == "deepnorm" else 1)
        embeddings = self.vocabulary * self.dim * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * (attention + feed_forward + norms) + self.dim


@dataclass(frozen=True)
class ActivationCheckpointingConfig:
    """Which activations are recomputed in the backward pass instead of kept (torch's non-reentrant checkpoint)."""

    mode: Literal["none", "block", "mlp"] = "none"
    """none: keep all; block: recompute whole blocks; mlp: recompute the feed-forward half of each block only."""
    every: int = 1
    """With mode block: recompute every k-th block; 1 is every block."""
    offload: bool = False
    """Hold the inputs of the recomputed parts in host memory until the backward pass needs them."""

    def __post_init__(self) -> None:
        require_positive("activation_checkpointing", "every", self.every)
        if self.mode != "block" and self.every != 1:
            raise UserError(f"activation_checkpointing.every: {self.every} needs mode 'block', not '{self.mode}'")
        if self.mode == "none" and self.offload:
            raise UserError("activation_checkpointing.offload: true needs mode 'block' or 'mlp', not 'none'")


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: Literal["bytes", "bpe"] = "bytes"
    """bytes: 256 UTF-8 bytes and 4 specials, the character tokenizer. bpe: a trained SentencePiece model."""
    path: str | None = None
    """The SentencePiece model of a bpe tokenizer."""

    def __post_init__(self) -> None:
        if (self.kind == "bpe") != (self.path is not None):
            need = "needs the path of a trained model" if self.kind == "bpe" else "takes no path"
            raise UserError(f"tokenizer.path: kind '{self.kind}' {need}; see tokenizers/README.md")


@dataclass(frozen=True)
class DataConfig:
    """What text the run sees."""

    corpus: str = "corpora/bible"
    """Directory of an imported or fetched corpus (`genesis-ds corpus fetch|import`)."""
    languages: list[str] = field(default_factory=list)
    """Languages (BCP-47) or translation names to train on; empty: all in the corpus."""
    token_sets: str = "token_sets"
    """Directory where compiled token sets are kept."""
    split_seed: int = 0
    """Chooses which chapters are validation."""
    cross_references: str | None = None
    """An OpenBible.info TSV whose cross-references are added to the corpus's own."""


@dataclass(frozen=True)
class ArithmeticConfig:
    """(a op b) mod p in the place of text: the positive control of grokking (arXiv 2201.02177).

    A run with a modulus learns lm alone, on sequences of three tokens (a, b, =) with the loss on the answer.
    """

    modulus: int | None = None
    """p; None: the run is of text."""
    operation: Operation = "add"
    """op."""
    train_share: float = 0.3
    """Share of the p^2 pairs that is trained on, rounded down to whole pairs; the others are validation."""
    split_seed: int = 0
    """Chooses which pairs are trained on."""

    def __post_init__(self) -> None:
        if self.modulus is not None:
            require("arithmetic", "modulus", self.modulus, self.modulus >= 2, "a whole number of 2 or more")
            n_pairs = self.modulus**2
            some_of_each = 0 < int(self.train_share * n_pairs) < n_pairs
            allowed = f"a share between 0 and 1 that takes some of the {n_pairs} pairs"
            require("arithmetic", "train_share", self.train_share, some_of_each, allowed)


@dataclass(frozen=True)
class TasksConfig:
    """How much of the training each task gets. Where any weight is given, tasks left out get none.

    Where none is given: lm 0.70, coherence 0.15, cross_reference 0.075, paraphrase 0.075, without those that the
    corpus does not allow.
    """

    lm: float | None = None
    """Language modelling on packed windows."""
    coherence: float | None = None
    """Whether one verse follows another, against graded negatives."""
    cross_reference: float | None = None
    """A verse is closer to one it refers to than to the neighbours of that one."""
    paraphrase: float | None = None
    """A verse is closer to itself in another language than to its neighbours there."""

    def __post_init__(self) -> None:
        given = self.given
        for task, weight in given.items():
            require("tasks", task, weight, 0 <= weight < math.inf, "zero or more")
        if given and not any(given.values()):
            raise UserError("tasks: all weights are 0; give at least one task a weight above 0")

    @property
    def given(self) -> dict[str, float]:
        """The weights that were given."""
        return {task: weight for task, weight in vars(self).items() if weight is not None}

    @property
    def trained(self) -> tuple[str, ...]:
        """The tasks with a weight above 0, or all where no weight is given.

        In the latter case the run leaves out what its corpus does not allow; a memory plan, which has none, counts it.
        """
        weights = self.given or dict.fromkeys(vars(self), 1.0)
        return tuple(task for task in vars(self) if weights.get(task))

    @property
    def heads(self) -> tuple[str, ...]:
        """The trained tasks with a head of their own."""
        return tuple(task for task in self.trained if task != "lm")


@dataclass(frozen=True)
class VerseTasksConfig:
    """The tasks on verses: coherence, cross_reference and paraphrase."""

    slot_sequences: int | None = None
    """Sequences in a row that belong to one task, over all ranks. None: micro_batch_size x ranks at the start."""
    contrast: Literal["margin", "in_batch"] = "margin"
    """Loss of cross_reference and paraphrase. margin: relu(margin - cos(anchor, positive) + cos(anchor, negative)).
    in_batch: cross-entropy over all verses of the same pack (InfoNCE, arXiv 1807.03748)."""
    margin: float = 0.2
    """Of the margin loss, in cosines."""
    temperature: float = 0.07
    """Of the in_batch loss."""
    projection_dim: int = 128
    """Width of the space in which cross_reference and paraphrase compare verses."""

    def __post_init__(self) -> None:
        if self.slot_sequences is not None:
            require_positive("verse_tasks", "slot_sequences", self.slot_sequences)
        require("verse_tasks", "margin", self.margin, 0 < self.margin <= 2, "a number above 0, at most 2")
        require("verse_tasks", "temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")
        require_positive("verse_tasks", "projection_dim", self.projection_dim)


@dataclass(frozen=True)
class BatchConfig:
    """How much text one optimizer step sees."""

    seq_len: int = 256
    """Tokens in one packed window."""
    global_batch_size: int = 16
    """Windows per optimizer step over all ranks; accumulation is derived from it."""
    micro_batch_size: int = 16
    """Windows per rank in one forward and backward pass."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "global_batch_size", "micro_batch_size"):
            require_positive("batch", name, getattr(self, name))


@dataclass(frozen=True)
class GrokfastConfig:
    """A gradient filter that may bring grokking forward: Grokfast-EMA, arXiv 2405.20233, which has 0.98 and 2."""

    alpha: float = 0.98
    """Decay rate of the gradient's moving average."""
    lamb: float = 0.0
    """How many times the average is added to the gradient. 0: no filter; otherwise the average takes as much memory as
    one of Adam's two moments."""

    def __post_init__(self) -> None:
        require("optimizer.grokfast", "alpha", self.alpha, 0 <= self.alpha < 1, "a number in [0, 1)")
        require("optimizer.grokfast", "lamb", self.lamb, 0 <= self.lamb < math.inf, "zero or more")

    @property
    def is_on(self) -> bool:
        """Whether gradients are filtered."""
        return self.lamb > 0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. Weight decay does not apply to norms and biases."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay rates of Adam's first and second moment."""
    eps: float = 1e-8
    """Adam's denominator offset."""
    weight_decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    implementation: Literal["auto", "cpu_adam", "torch"] = "auto"
    """auto: DeepSpeedCPUAdam where a GPU run offloads it, otherwise torch's AdamW (fused on a GPU)."""
    grokfast: GrokfastConfig = field(default_factory=GrokfastConfig)
    """Off unless lamb is given."""

    def __post_init__(self) -> None:
        require("optimizer", "lr", self.lr, 0 < self.lr < math.inf, "a positive number")
        in_range = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require("optimizer", "betas", self.betas, in_range, "two numbers in [0, 1)")
        require("optimizer", "eps", self.eps, self.eps > 0, "a positive number")
        require("optimizer", "weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "zero or more")
        require("optimizer", "gradient_clipping", self.gradient_clipping, self.gradient_clipping >= 0, "zero or more")


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the optimizer steps."""

    kind: Literal["cosine", "constant"] = "cosine"
    """Shape after the warm-up."""
    warmup_steps: Duration = 100
    """Steps (or "N epochs") of linear rise from 0 to the peak."""
    min_lr_ratio: float = 0.1
    """Where cosine ends, as a share of the peak."""

    def __post_init__(self) -> None:
        require_duration("schedule", "warmup_steps", self.warmup_steps)
        require("schedule", "min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "a number from 0 to 1")


@dataclass(frozen=True)
class EvaluationConfig:
    """Bits per byte on the validation splits, and each task's measures."""

    every: Duration = 200
    """Steps (or "N epochs") between evaluations; one more is made at the end. 0: only at the end."""
    per_decade: int = 0
    """So many evaluations from every power of ten of steps to the next as well, for as long as they are closer together
    than `every`. 32 finds what happens early in a long run."""
    tasks_every: Duration = 2000
    """The same for the tasks on verses, which cost more to judge."""
    max_windows: int = 12
    """Windows per split and language, evenly spaced over it; 0: all of them."""
    max_verses: int = 256
    """Verses per split and task on which coherence, cross_reference and paraphrase are judged; 0: all of them."""

    def __post_init__(self) -> None:
        require_duration("evaluation", "every", self.every)
        require_duration("evaluation", "tasks_every", self.tasks_every)
        require("evaluation", "per_decade", self.per_decade, self.per_decade >= 0, "zero or more")
        require("evaluation", "max_windows", self.max_windows, self.max_windows >= 0, "zero or more")
        enough = self.max_verses == 0 or self.max_verses >= 32
        require("evaluation", "max_verses", self.max_verses, enough, "0 for all of them, or 32 and more")


@dataclass(frozen=True)
class SamplesConfig:
    """Text the model writes on its own, one sample per language, each after the opening of a validation chapter."""

    every: Duration = 0
    """Steps (or "N epochs") between samples; one more is made at the end. 0: only at the end."""
    prompt_tokens: int = 32
    """Tokens of the opening that are given."""
    new_tokens: int = 96
    """Tokens that are written."""
    temperature: float = 0.7
    """Softmax temperature; 0 takes the most likely token."""

    def __post_init__(self) -> None:
        require_duration("samples", "every", self.every)
        require_positive("samples", "prompt_tokens", self.prompt_tokens)
        require("samples", "new_tokens", self.new_tokens, self.new_tokens >= 0, "zero or more")
        require("samples", "temperature", self.temperature, 0 <= self.temperature < math.inf, "zero or more")

    @property
    def longest(self) -> int:
        """Tokens of the longest input: the last new token is never one."""
        return self.prompt_tokens + self.new_tokens - 1


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved and what is kept."""

    every: Duration = 500
    """Steps (or "N epochs") between checkpoints; one more is made at the end. 0: only at the end."""
    keep_last: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_named: int = 2
    """How many of the newest that were made because of a grokking event stay besides."""
    weights_per_decade: int = 0
    """Files of the weights alone, so many from each power of ten of steps to the next, and one at the end; all stay."""

    def __post_init__(self) -> None:
        require_duration("checkpoint", "every", self.every)
        require("checkpoint", "weights_per_decade", self.weights_per_decade, self.weights_per_decade >= 0, "0 or more")
        require_positive("checkpoint", "keep_last", self.keep_last)
        require_positive("checkpoint", "keep_named", self.keep_named)


@dataclass(frozen=True)
class GrokkingConfig:
    """Detection of grokking, for each task and language on its own."""

    rule: Literal["states", "window", "none"] = "states"
    """states: a state machine from memorisation to generalisation; window: a drop of the mean validation loss from one
    half of a window to the other, for comparison; none: no detection, and no evaluation on training data."""
    split: Literal["val_chapter", "val_book"] = "val_chapter"
    """The validation data that are looked at."""


@dataclass(frozen=True)
class MemoryConfig:
    """What is done with the memory plan that is made before anything is built."""

    enforce: bool = True
    """Stop with advice when the plan says that the run does not fit this machine; false: warn and go on."""


LENGTHS = ("max_steps", "max_epochs", "max_tokens")
"""How long a run is: one of them. A flag takes the place of what its YAML says."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    name: str = "quickstart"
    """Name of the run; its directory is output_dir/name."""
    output_dir: str = "runs"
    """Where run directories are made."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and the samples."""
    max_steps: int | None = None
    """Optimizer steps of the whole run. None: as max_epochs or max_tokens say, otherwise 1000."""
    max_epochs: float | None = None
    """The same in epochs of language modelling."""
    max_tokens: int | None = None
    """The same in tokens, padding included."""
    max_hours: float | None = None
    """Stop earlier, with a checkpoint, after so many hours of training in all its starts. None: no limit."""
    resume: str = "auto"
    """auto: from the run's newest checkpoint if there is one; never: start anew; or the path of a checkpoint."""
    precision: Precision = "auto"
    """auto: what the ds_config says, with bf16 turned to fp32 on a CPU; bf16 or fp32 force it."""
    log_every: Duration = 10
    """Steps (or "N epochs") between lines on the console and records in metrics.jsonl and TensorBoard."""
    model: ModelConfig = field(default_factory=ModelConfig)
    activation_checkpointing: ActivationCheckpointingConfig = field(default_factory=ActivationCheckpointingConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    arithmetic: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    verse_tasks: VerseTasksConfig = field(default_factory=VerseTasksConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    grokking: GrokkingConfig = field(default_factory=GrokkingConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    connectives: ConnectivesConfig = field(default_factory=ConnectivesConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    @property
    def n_steps(self) -> int:
        """max_steps, once it is known."""
        assert self.max_steps is not None, "max_steps is filled in from max_epochs or max_tokens before training"
        return self.max_steps

    def __post_init__(self) -> None:
        named = bool(self.name) and "/" not in self.name and self.name not in (".", "..")
        require("", "name", self.name, named, "a plain directory name")
        ends = [key for key in LENGTHS if getattr(self, key) is not None]
        for key in (*ends, *(["max_hours"] if self.max_hours is not None else [])):
            require("", key, getattr(self, key), 0 < getattr(self, key) < math.inf, "a number above 0")
        if len(ends) > 1:
            raise UserError(f"{ends[0]} and {ends[1]} both say how long the run is; give one of them")
        require_duration("", "log_every", self.log_every, allow_zero=False)
        if self.batch.seq_len > self.model.max_seq_len:
            raise UserError(
                f"batch.seq_len: {self.batch.seq_len} is longer than model.max_seq_len {self.model.max_seq_len}; "
                "lower the one or raise the other"
            )
        if self.arithmetic.modulus:
            self._require_no_text()
        elif self.samples.new_tokens and self.samples.longest > self.model.max_seq_len:
            raise UserError(
                f"samples: {self.samples.prompt_tokens} prompt_tokens and {self.samples.new_tokens} new_tokens exceed "
                f"model.max_seq_len {self.model.max_seq_len}; lower them or raise it"
            )

    def _require_no_text(self) -> None:
        of = f"arithmetic.modulus: {self.arithmetic.modulus} makes this a run without text"
        of_text = {"data": DataConfig(), "tokenizer": TokenizerConfig(), "verse_tasks": VerseTasksConfig()}
        for section, default in of_text.items():
            given = [name for name, value in vars(default).items() if getattr(getattr(self, section), name) != value]
            if given:
                raise UserError(f"{of}; leave out {section}.{given[0]}, or arithmetic")
        if self.tasks.trained != ("lm",):
            raise UserError(f"{of}, whose only task is lm; leave out tasks, or arithmetic")
        if self.batch.seq_len != ARITHMETIC_SEQ_LEN:
            raise UserError(f"{of}, of {ARITHMETIC_SEQ_LEN} tokens; leave out batch.seq_len {self.batch.seq_len}")


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))

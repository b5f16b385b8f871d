"""The configuration of a run: dataclasses and their checks. Nothing here knows about YAML or argparse.

Every field is documented where it stands; `genesis-ds` and `launch/train.py` show the same text under --help.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from genesis_ds.config.checks import (
    LARGEST,
    MOST_PER_DECADE,
    require,
    require_count,
    require_duration,
    require_positive,
)
from genesis_ds.config.data import (
    ARITHMETIC_SEQ_LEN,
    ArithmeticConfig,
    BatchConfig,
    DataConfig,
    DistillConfig,
    MaskingConfig,
    Operation,
    TokenizerConfig,
    VerseTasksConfig,
)
from genesis_ds.config.durations import Duration, steps
from genesis_ds.config.extensions import ExtensionsConfig
from genesis_ds.config.measurement import (
    AlignmentConfig,
    ClusteringConfig,
    ConnectivesConfig,
    EvaluationConfig,
    GrokkingConfig,
    MemorisationConfig,
    SamplesConfig,
    TrajectoryConfig,
)
from genesis_ds.config.model import (
    ActivationCheckpointingConfig,
    CompileConfig,
    ModelConfig,
    ModelShape,
    RegularisationConfig,
)
from genesis_ds.config.optimization import (
    FaultsConfig,
    GrokfastConfig,
    OptimizerConfig,
    ScheduleConfig,
    WeightAverageConfig,
)
from genesis_ds.errors import UserError, nearest, shown
from genesis_ds.optimizers.registry import OPTIMIZERS

__all__ = [
    "ARITHMETIC_SEQ_LEN",
    "LENGTHS",
    "PATHS",
    "ActivationCheckpointingConfig",
    "AlignmentConfig",
    "ArithmeticConfig",
    "BatchConfig",
    "CheckpointConfig",
    "ClusteringConfig",
    "CompileConfig",
    "ConnectivesConfig",
    "ConsoleLevel",
    "DataConfig",
    "DistillConfig",
    "EvaluationConfig",
    "ExtensionsConfig",
    "FaultsConfig",
    "GrokfastConfig",
    "GrokkingConfig",
    "MaskingConfig",
    "MemorisationConfig",
    "MemoryConfig",
    "ModelConfig",
    "ModelShape",
    "Operation",
    "OptimizerConfig",
    "RegularisationConfig",
    "RunConfig",
    "SamplesConfig",
    "ScheduleConfig",
    "TokenizerConfig",
    "TrajectoryConfig",
    "VerseTasksConfig",
    "WeightAverageConfig",
]

Precision = Literal["auto", "bf16", "fp32"]
ConsoleLevel = Literal["short", "full", "quiet"]
OF_TEXT = (
    *("tokenizer", "data", "masking", "distill", "verse_tasks"),
    *("samples", "memorisation", "alignment", "clustering", "connectives"),
)
"""Sections that a run of arithmetic does not have."""
LENGTHS = ("max_steps", "max_epochs", "max_tokens")
"""Fields that say how long a run is, of which it has one. A flag takes the place of what its YAML says."""
MOST = {"max_steps": LARGEST, "max_epochs": 10**9, "max_tokens": 10**18, "max_hours": 10**6}
"""Largest value of each length; none is ever reached, and none makes a sum too large."""
LONGEST_NAME = 200
"""Most bytes in a run's name; a directory's may have 255."""
PATHS = (
    *("output_dir", "resume", "init_from", "tokenizer.path"),
    *("data.corpus", "data.token_sets", "data.cross_references", "clustering.topics", "distill.teacher"),
)
"""Fields that are, or may be, a path, or a list of them: ~ in them is the home directory."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved and what is kept."""

    every: Duration = 500
    """Steps (or "N epochs") between checkpoints; one more is made at the end. 0: only at the end."""
    keep_last: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_named: int = 2
    """How many of the newest checkpoints made because of a grokking event stay besides."""
    milestones: Duration = 0
    """Checkpoints at multiples of so many steps (or "N epochs") stay for ever. 0: none."""
    best_by: str | None = None
    """A metric, such as val/val_chapter/en/bits_per_byte; the best checkpoints by its last value stay besides."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Whether the lowest or the highest value of best_by is the best."""
    keep_best: int = 1
    """How many of the best checkpoints by best_by stay."""
    background: bool = False
    """Go on training while a checkpoint is written; the host holds a copy meanwhile, 12 to 16 bytes a parameter."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What to do when a checkpoint cannot be written (a full disk): warn, keep the older ones and try again soon; or
    stop."""
    weights_per_decade: int = 0
    """Files of the weights alone, so many from each power of ten of steps to the next, and one at the end; all stay.
    0: none."""

    def __post_init__(self) -> None:
        require_duration("checkpoint.every", self.every, zero="only at the end")
        require_count("checkpoint.weights_per_decade", self.weights_per_decade, MOST_PER_DECADE)
        require_positive("checkpoint.keep_last", self.keep_last)
        require_positive("checkpoint.keep_named", self.keep_named)
        require_positive("checkpoint.keep_best", self.keep_best)
        require_duration("checkpoint.milestones", self.milestones)


@dataclass(frozen=True)
class MemoryConfig:
    """What is done with the memory plan that is made before anything is built."""

    enforce: bool = True
    """Stop with advice when the plan says that the run does not fit this machine; false: warn and go on."""


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
    """Length of the whole run in epochs of language modelling, in place of max_steps."""
    max_tokens: int | None = None
    """Length of the whole run in tokens, padding included, in place of max_steps."""
    max_hours: float | None = None
    """Stop earlier, with a checkpoint, after so many hours of training in all its starts. None: no limit."""
    resume: str = "auto"
    """auto: from the run's newest checkpoint if there is one; never: start anew; or the path of a checkpoint."""
    init_from: str | None = None
    """Where a new run has its weights from: an export, a checkpoint of training, a file of weights, or a checkpoint of
    the earlier code (step_N.pt, or a directory of model.safetensors or training_state.pt). A resumed run ignores it."""
    precision: Precision = "auto"
    """auto: what the ds_config says, with bf16 turned to fp32 on a CPU; bf16 or fp32 force it."""
    log_every: Duration = 10
    """Steps (or "N epochs") between lines on the console and records in metrics.jsonl and TensorBoard."""
    console: ConsoleLevel = "short"
    """short: a line per report, tables of evaluations, events; full: every measure in words as well; quiet: events."""
    model: ModelConfig = field(default_factory=ModelConfig)
    activation_checkpointing: ActivationCheckpointingConfig = field(default_factory=ActivationCheckpointingConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    arithmetic: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    tasks: dict[str, float] = field(default_factory=dict)
    """Task -> how much of the training it gets, in any unit; tasks left out get none. Where none is given, each has its
    default weight, without those that the corpus does not allow."""
    extensions: ExtensionsConfig = field(default_factory=ExtensionsConfig)
    hooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Hook of extensions.hooks -> the options that its `build` takes."""
    verse_tasks: VerseTasksConfig = field(default_factory=VerseTasksConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    memorisation: MemorisationConfig = field(default_factory=MemorisationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    grokking: GrokkingConfig = field(default_factory=GrokkingConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    connectives: ConnectivesConfig = field(default_factory=ConnectivesConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def __post_init__(self) -> None:
        plain = shown(self.name) == self.name and len(self.name.encode()) <= LONGEST_NAME
        named = bool(self.name) and plain and "/" not in self.name and self.name not in (".", "..")
        require("name", self.name, named, "a plain directory name, not too long")
        for task, weight in self.tasks.items():
            require(f"tasks.{task}", weight, 0 <= weight < math.inf, "zero or more")
        if self.tasks and not any(self.tasks.values()):
            raise UserError("tasks: all weights are 0; give at least one task a weight above 0")
        if (name := self.optimizer.name) not in (known := [*OPTIMIZERS, *self.extensions.optimizers]):
            raise UserError(f"optimizer.name: no optimizer is named {name}; {nearest(name, known)}")
        ends = [key for key in LENGTHS if getattr(self, key) is not None]
        for key in (key for key in MOST if getattr(self, key) is not None):
            value = getattr(self, key)
            allowed = "a number above 0" if value <= MOST[key] else f"{MOST[key]:,} at most"
            require(key, value, 0 < value <= MOST[key], allowed)
        require("seed", self.seed, abs(self.seed) < 2**63, "a whole number of less than 64 bits")
        if len(ends) > 1:
            raise UserError(f"{ends[0]} and {ends[1]} both say how long the run is; give one of them")
        require_duration("log_every", self.log_every, zero=None)
        if self.batch.seq_len > self.model.max_seq_len:
            raise UserError(
                f"batch.seq_len: {self.batch.seq_len} is longer than model.max_seq_len {self.model.max_seq_len}; "
                "lower the one or raise the other"
            )
        self._require_own_model()
        if self.tasks and not self.tasks.get("lm"):
            of_lm = {"masking.kind": self.masking.is_on, "memorisation.canaries": self.memorisation.canaries}
            of_lm["distill.teacher"] = self.distill.is_on
            for key in (key for key, is_on in of_lm.items() if is_on):
                raise UserError(f"{key}: is of the task lm; give tasks.lm a weight above 0, or leave it out")
        if self.distill.is_on and (chunk := self.activation_checkpointing.loss_chunk):
            raise UserError(
                f"activation_checkpointing.loss_chunk: {chunk} leaves no logits of whole windows, and distill.teacher "
                "takes them; leave one of the two out"
            )
        if self.schedule.kind == "plateau":
            self._require_evaluations()
        decays = (self.optimizer.weight_decay, *self.optimizer.weight_decay_of.values())
        if self.schedule.weight_decay_end_ratio != 1 and not any(decays):
            raise UserError(
                "schedule.weight_decay_end_ratio: needs a weight decay; give optimizer.weight_decay, or leave it out"
            )
        if self.arithmetic.modulus:
            self._require_no_text()
        elif self.samples.new_tokens and self.samples.longest > self.model.max_seq_len:
            raise UserError(
                f"samples: {self.samples.prompt_tokens} prompt_tokens and {self.samples.new_tokens} new_tokens exceed "
                f"model.max_seq_len {self.model.max_seq_len}; lower them or raise it"
            )

    def compiles_on(self, device_type: str) -> bool:
        """Return whether the blocks are compiled in training on cuda or cpu."""
        when = self.compile.when
        return when == "always" or (when == "gpu" and device_type == "cuda" and self.extensions.model is None)

    def _require_evaluations(self) -> None:
        """Raise UserError where the plateau schedule would have nothing to watch."""
        if not steps(self.evaluation.every, steps_per_epoch=1.0):
            raise UserError(
                "schedule.kind: plateau watches the evaluations, and evaluation.every is 0; give a number of steps"
            )
        if self.tasks and not self.tasks.get("lm"):
            raise UserError("schedule.kind: plateau watches the validation loss of lm; give tasks.lm a weight above 0")

    def _require_own_model(self) -> None:
        """Raise UserError for what only the decoder has where the model is the user's own, and the reverse."""
        own = self.extensions.model
        if own is None:
            if self.model.options:
                raise UserError("model.options: the decoder takes none; name a model of your own in extensions.model")
        elif self.model.tie_embeddings:
            raise UserError(f"model.tie_embeddings: true, but the output layer over {own} is its own; leave it out")
        elif self.regularisation.is_on:
            raise UserError(f"regularisation: drops parts of the decoder, but the model is {own}; leave it out")
        elif (mode := self.activation_checkpointing.mode) not in ("none", "block"):
            raise UserError(
                f"activation_checkpointing.mode: '{mode}' is a part of the decoder's, not {own}'s; give block"
            )
        elif self.activation_checkpointing.mode == "block" and self.compile.when == "always":
            raise UserError(
                f"compile.when: always, but {own} would recompute nothing; give activation_checkpointing.mode none, "
                "or compile.when never"
            )

    def _require_no_text(self) -> None:
        of = f"arithmetic.modulus: {self.arithmetic.modulus} makes this a run without text"
        for name in OF_TEXT:
            section = getattr(self, name)
            for key, default in vars(type(section)()).items():
                if getattr(section, key) != default:
                    raise UserError(f"{of}; leave out {name}.{key}, or arithmetic")
        if [task for task, weight in self.tasks.items() if weight] != ["lm"]:
            raise UserError(f"{of}, whose only task is lm; leave out tasks, or arithmetic")
        if self.batch.seq_len != ARITHMETIC_SEQ_LEN:
            raise UserError(f"{of}, of {ARITHMETIC_SEQ_LEN} tokens; leave out batch.seq_len {self.batch.seq_len}")

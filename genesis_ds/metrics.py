"""Metric names, as they appear in metrics.jsonl and TensorBoard."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_TOKENS = "train/tokens"
TRAIN_SEQUENCES = "train/sequences"
EXTRA_LOSS_OF = re.compile(r"train/(?!(?:loss|accuracy|grad_norm|tokens|sequences)/)(?P<name>[^/]+)/(?P<task>[^/]+)")
"""The names that extra_loss makes."""
EPOCH = "train/epoch"
LEARNING_RATE = "optim/lr"
LR_SCALE = "optim/lr_scale"
"""What the plateau schedule has left of the peak learning rate."""
LR_DROP = "optim/lr_drop"
"""A text: the plateau schedule has lowered the learning rate after this step, and why."""
GRAD_NORM = "optim/grad_norm"
SKIPPED_STEPS = "optim/skipped_steps"
"""Steps of the run that had no update, for a loss or a gradient that was not finite."""
SKIPPED = "optim/skipped"
"""A text: this step had none, and why."""
TOKENS_PER_SECOND = "perf/tokens_per_second"
STEP_SECONDS = "perf/step_seconds"
GPU_PEAK = "memory/gpu_peak_gib"
HOST_PEAK = "memory/host_peak_gib"
GPU_PREDICTED = "memory/gpu_predicted_gib"
HOST_PREDICTED = "memory/host_predicted_gib"
GRAPHS = "compile/graphs"
"""Graphs that the blocks have been compiled to since the engine was built."""
COMPILED = "compile/blocks"
"""A text: that there are more of them, and why a graph ends within a block."""
TRAIN_SUBSET = "train_subset"
"""In the place of a validation split: a fixed part of the training data, in evaluation mode."""
WEIGHT_NORM = "trajectory/weight_norm"
LOGIT_RMS = "trajectory/logit_rms"
EFFECTIVE_RANK = "trajectory/effective_rank"
LAYER_GRADIENT = "trajectory/gradient_norm"
LAYER_UPDATE = "trajectory/update_norm"
GRADIENT_RATIO = "trajectory/gradient_ratio"
UPDATE_RATIO = "trajectory/update_ratio"
GRADIENT_LEVEL = "trajectory/gradient_level"
"""A text: the gradient ratio has left its range, or returned."""
ZERO_LOSS = "health/zero_loss"
"""Share of the training tokens whose loss is exactly 0 in fp32."""
LOGIT_SCALE = "health/logit_scale"
"""Root mean square of the logits less their mean over the vocabulary, which the loss does not see."""
UPDATE_COSINE = "health/update_cosine"
"""Cosine of what a step adds to the layers' weights and these weights: near 1 a step does little but scale them."""
COLLAPSE = "health/softmax_collapse"
"""A text: so many training tokens have a loss of 0 that they teach nothing more."""
RANKS = "ranks"
RESTRICTED_LOSS = "progress/restricted_loss"
"""Validation loss of modular arithmetic by the key frequencies alone."""
EXCLUDED_LOSS = "progress/excluded_loss"
"""Training loss of modular arithmetic without them."""
KEY_FREQUENCIES = "progress/key_frequencies"
"""How many frequencies are key."""
EMBEDDING_GINI = "progress/embedding_gini"
"""Gini coefficient of the norms of the embedding's Fourier components."""
ALIGNMENT = "alignment"
CLUSTERING = "clustering"
AT_DEPTH = re.compile(rf"(?P<metric>{ALIGNMENT}/[^/]+|{CLUSTERING})/layer_(?P<depth>\d+)/(?P<measure>.+)")
"""The names that at_depth makes."""
ETA_SQUARED = "eta_squared"
"""Which share of the variance of hidden states lies between languages."""
ETA_AT_DEPTH = re.compile(rf"{ALIGNMENT}/layer_(?P<depth>\d+)/{ETA_SQUARED}")
PERMUTED = "_permuted"
"""Suffix: what a measure of hidden states is where it has nothing to find, because pairs or concepts are shuffled."""
BY_NGRAMS = "by_ngrams"
"""In the place of a depth: what a measure of hidden states is on the tf-idf of the text's character n-grams. As a last
part: what a measure of a task is by them."""
BY_LENGTH = "by_length"
"""In the place of a depth, or as a last part: what it is on the lengths of the text."""
BY_BIGRAMS = "by_bigrams"
"""As a last part: what a measure of a task is by how often tokens of training stand at a distance from each other."""
AT_STEP_0 = "/at_step_0"
"""Suffix: what it was in the model before the first step."""
AVERAGED = "/averaged"
"""Suffix: what it is in the average of the weights (`optimizer.weight_average`)."""
Z_SCORE = "/z"
"""Suffix: its distance from what permutations give, in their standard deviations."""
DOMINANT_DIMENSION = "alignment/dominant_dimension"
"""A text: a single dimension holds most of what hidden states vary in."""
BITS_PER_BYTE = "bits_per_byte"
BITS_PER_BYTE_OF = re.compile(rf"val/(?P<split>[^/]+)/(?P<language>[^/]+)/{BITS_PER_BYTE}")
"""The names that bits_per_byte makes."""
ARITHMETIC_LOSS = "val/validation/arithmetic/loss"
MEMORISATION = "memorisation"
EXTRACTED = "extracted"
"""Which share of the training verses asked for is given back word for word."""
EXTRACTED_OF = re.compile(rf"{MEMORISATION}/(?P<language>[^/]+)/{EXTRACTED}")
EXTRACTED_VALIDATION = "extracted_validation"
"""The same of validation verses, which are never trained on."""
MEMBERSHIP = "membership_auc"
"""How likely a training verse has a lower loss than a validation verse."""
WORDING_GAP = "wording_gap"
"""Loss of an untrained translation's wording of training verses less that of the trained wording, in nats a token."""
WORDING_GAP_VALIDATION = "wording_gap_validation"
"""The same of validation verses, of which neither wording is trained on."""
REWORDED = "membership_auc_reworded"
"""How likely a training verse has a lower loss than a validation verse in the untrained translation's wording."""
EXPOSURE = f"{MEMORISATION}/canaries/exposure"
EXPOSURE_OF = re.compile(rf"{EXPOSURE}/repeated_(?P<repetitions>\d+)")
"""The names that exposure_of makes."""
LOW, HIGH = "/low", "/high"
"""Suffixes: the ends of a 95 % interval."""
CHANCE = "/chance"
"""Suffix: what a measure would be by chance."""
BY_LINKS = "/by_links"
"""Suffix: what a measure of cross-references would be by the number of a verse's links in training alone."""
TRIALS = "/n"
"""Suffix: on how many trials a measure rests."""


CONTROLS = {
    "links": BY_LINKS,
    "n-grams": f"/{BY_NGRAMS}",
    "length": f"/{BY_LENGTH}",
    "bigrams": f"/{BY_BIGRAMS}",
    "step 0": AT_STEP_0,
}
"""What needs no training, in words -> the suffix of its name beside a task's measure."""
OF_NO_WEIGHTS = (TRIALS, CHANCE, BY_LINKS, *(f"/{surface}" for surface in (BY_NGRAMS, BY_LENGTH, BY_BIGRAMS)))
"""Endings of the names of what is the same in every model."""


def averaged(found: Mapping[str, float]) -> dict[str, float]:
    """Return the measures of the average of the weights by their names, without what is the same in every model."""
    return {name + AVERAGED: value for name, value in found.items() if not name.endswith(OF_NO_WEIGHTS)}


def of_task(metric: str, task: str) -> str:
    """Name a training metric of one task: train/loss/lm."""
    return f"{metric}/{task}"


def extra_loss(name: str, task: str) -> str:
    """Name a part of a task's training loss that is reported apart: train/masked_loss/lm."""
    return f"train/{name}/{task}"


def bits_per_byte(split: str, language: str) -> str:
    """Name the validation cross-entropy in bits per UTF-8 byte of text, so that tokenizers and languages compare."""
    return f"val/{split}/{language}/{BITS_PER_BYTE}"


def validation_losses(names: Collection[str], split: str) -> list[str]:
    """Return the names whose mean is a run's validation loss: of a split's bits per byte, or the loss of arithmetic."""
    of_split = [name for name in names if (at := BITS_PER_BYTE_OF.fullmatch(name)) and at["split"] == split]
    return of_split or [name for name in names if name == ARITHMETIC_LOSS]


def of_stratum(metric: str, stratum: str) -> str:
    """Name a measure of text on the words of one stratum alone: val/val_book/en/bits_per_byte/copied."""
    return f"{metric}/{stratum}"


def by_surface(metric: str, surface: str) -> str:
    """Name what a measure of a task is by a surface of the text: val/val_book/coherence/accuracy/by_ngrams."""
    return f"{metric}/{surface}"


def judged(split: str, task: str, *measure: str) -> str:
    """Name what judges a task, other than plain language modelling, on a split: val/val_book/cross_reference/en/mrr."""
    return "/".join(("val", split, task, *measure))


class JudgedName(NamedTuple):
    """What a name that judged makes is of."""

    task: str
    measure: str
    split: str
    member: str
    """The language, or the pair of languages; empty where it is of all."""


def judged_of(name: str, names: Collection[str]) -> JudgedName | None:
    """Return what a task's measure on a validation split is of; None for any other name.

    names: all that are measured; what only stands beside another of them is not a measure of its own.
    """
    if not name.startswith("val/") or name.count("/") < 3:
        return None
    _, split, task, *rest = name.split("/")
    if rest == ["connectives"]:
        return JudgedName("connectives", "foreseen", split, task)
    if rest == [BITS_PER_BYTE] or name.rpartition("/")[0] in names:
        return None
    return JudgedName(task, rest[-1], split, "/".join(rest[:-1]))


def of_curve(curve: str, measure: str) -> str:
    """Name what the detection of grokking looks at: grokking/lm/en/val_loss."""
    return f"grokking/{curve}/{measure}"


def is_of_a_part(curve: str) -> bool:
    """Return whether a curve is of a part of its data or of the other split: lm/en/copied, but not lm/en."""
    return curve.count("/") > 1


def of_layer(metric: str, layer: int) -> str:
    """Name a norm of one layer, the first being 0: trajectory/gradient_norm/layer_0."""
    return f"{metric}/layer_{layer}"


def rank_of(layer: int, matrix: str, measure: str) -> str:
    """Name a rank of a block's matrix, the first block being 0: ranks/layer_0/attention.wq/stable_rank."""
    return f"{RANKS}/layer_{layer}/{matrix}/{measure}"


def aligned(pair: str) -> str:
    """Name how alike two languages lie: alignment/en-es."""
    return f"{ALIGNMENT}/{pair}"


def at_depth(metric: str, depth: int, measure: str) -> str:
    """Name a measure of the hidden states after so many layers: alignment/en-es/layer_4/procrustes."""
    return f"{metric}/layer_{depth}/{measure}"


def on_surface(metric: str, surface: str, measure: str) -> str:
    """Name a measure of the text's surface in the place of hidden states: alignment/en-es/by_ngrams/procrustes."""
    return f"{metric}/{surface}/{measure}"


def connectives(split: str, language: str) -> str:
    """Name the share of the connectives in a validation split that the model foresees."""
    return f"val/{split}/{language}/connectives"


def memorised(language: str, measure: str) -> str:
    """Name what a model knows by heart of a language: memorisation/en/extracted."""
    return f"{MEMORISATION}/{language}/{measure}"


def exposure_of(repetitions: int) -> str:
    """Name how well canaries are known that an epoch has so often: memorisation/canaries/exposure/repeated_4."""
    return f"{EXPOSURE}/repeated_{repetitions}"


def sample(language: str) -> str:
    """Name a text that the model wrote: sample/en."""
    return f"sample/{language}"

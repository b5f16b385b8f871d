"""Metric names, as they appear in metrics.jsonl and TensorBoard."""

TRAIN_LOSS = "train/loss"
TRAIN_ACCURACY = "train/accuracy"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_TOKENS = "train/tokens"
TRAIN_SEQUENCES = "train/sequences"
EPOCH = "train/epoch"
LEARNING_RATE = "optim/lr"
GRAD_NORM = "optim/grad_norm"
TOKENS_PER_SECOND = "perf/tokens_per_second"
STEP_SECONDS = "perf/step_seconds"
GPU_PEAK = "memory/gpu_peak_gib"
HOST_PEAK = "memory/host_peak_gib"
GPU_PREDICTED = "memory/gpu_predicted_gib"
HOST_PREDICTED = "memory/host_predicted_gib"
CHANCE = "/chance"
"""Suffix: what a measure would be by chance."""
BY_LINKS = "/by_links"
"""Suffix: what a measure of cross-references would be by the number of a verse's links in training alone."""
TRIALS = "/n"
"""Suffix: on how many trials a measure rests."""


def of_task(metric: str, task: str) -> str:
    """A training metric of one task: train/loss/lm."""
    return f"{metric}/{task}"


def bits_per_byte(split: str, language: str) -> str:
    """Validation cross-entropy in bits per UTF-8 byte of text, so that tokenizers and languages compare."""
    return f"val/{split}/{language}/bits_per_byte"


def judged(split: str, task: str, *measure: str) -> str:
    """A measure of a verse task on a validation split: val/val_book/cross_reference/en/mrr."""
    return "/".join(("val", split, task, *measure))


def sample(language: str) -> str:
    """A text the model wrote."""
    return f"sample/{language}"

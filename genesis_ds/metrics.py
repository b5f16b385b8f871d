"""Metric names, as they appear in metrics.jsonl and TensorBoard."""

TRAIN_LOSS = "train/loss"
EPOCH = "train/epoch"
LEARNING_RATE = "optim/lr"
GRAD_NORM = "optim/grad_norm"
TOKENS_PER_SECOND = "perf/tokens_per_second"
STEP_SECONDS = "perf/step_seconds"
GPU_PEAK = "memory/gpu_peak_gib"
HOST_PEAK = "memory/host_peak_gib"
GPU_PREDICTED = "memory/gpu_predicted_gib"
HOST_PREDICTED = "memory/host_predicted_gib"


def bits_per_byte(split: str, language: str) -> str:
    """Validation cross-entropy in bits per UTF-8 byte of text, so that tokenizers and languages compare."""
    return f"val/{split}/{language}/bits_per_byte"


def sample(language: str) -> str:
    """A text the model wrote."""
    return f"sample/{language}"

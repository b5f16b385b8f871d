"""Writing checkpoints, and which of them stay."""

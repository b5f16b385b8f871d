"""The training tasks. A task owns its examples and its batches."""

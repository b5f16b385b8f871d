"""The training tasks. A task owns its examples, its batches and its loss."""

"""The DeepSpeed engine and the process group: with checkpoint/, the only rooms that import deepspeed."""

"""The DeepSpeed engine and the process group: with checkpoint/ and hosts/, the only rooms that import deepspeed."""

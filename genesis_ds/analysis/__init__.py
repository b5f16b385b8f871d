"""Pure functions on arrays, and state machines on curves: what a run's numbers mean. No torch, no DeepSpeed."""

"""The activations of a model: a trace of the real one."""

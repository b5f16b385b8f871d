"""The activations of the model, counted operation by operation."""

"""What updates the weights: the built-in optimizers by a table, and a user's own."""

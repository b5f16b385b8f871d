"""Reading checkpoints, without running code that they hold."""

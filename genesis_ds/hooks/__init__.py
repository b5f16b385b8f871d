"""What happens around the training loop. The producers of metrics come before the writers in a run's list of hooks."""

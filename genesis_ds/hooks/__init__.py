"""What happens around the training loop: hooks that measure, then those that detect, then those that write."""

"""Hooks that measure the model on data."""

"""Sweeps: many runs of one configuration over values of its fields."""

"""Numerical faults: how a step without an update is seen, diagnosed, and gone back from."""

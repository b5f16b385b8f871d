"""Numerical faults: steps without an update, their diagnosis, and the rewind to a good checkpoint."""

"""Models that leave a run, and models of other programs."""

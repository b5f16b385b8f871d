"""Token data as a pure function of (seed, position)."""

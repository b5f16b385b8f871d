"""Hooks that measure the run itself: time, memory, norms, events."""

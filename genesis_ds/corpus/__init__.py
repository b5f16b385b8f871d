"""Parallel texts: a table of verses, what fills it (fetch, readers, synthetic), its cleaning and its splits."""

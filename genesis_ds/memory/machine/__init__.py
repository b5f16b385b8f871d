"""The machine: its memory, and how allocators use it."""

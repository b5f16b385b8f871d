"""What a run trains on: each task in a file of its own, and the schedule of their turns."""

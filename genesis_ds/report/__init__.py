"""What people look at: a report of runs in one file."""

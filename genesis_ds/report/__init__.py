"""What people look at: a report of runs in one file, tables of runs and events, pictures of curves."""

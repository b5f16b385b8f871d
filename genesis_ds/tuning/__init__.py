"""The fastest settings of a run on a machine, and the largest model: first by plan, then by measurement."""

"""`genesis-ds doctor`: whether a run can start on this machine, or on the hosts of a hostfile, and what mends it."""

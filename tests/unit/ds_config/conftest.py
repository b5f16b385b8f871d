import os

# Before the one import of deepspeed (test_schema): no GPU probing, no mpi4py.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

"""What a process keeps of memory that it has freed."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from genesis_ds.engine.heap import returning_freed_memory
from genesis_ds.engine.meter import host_bytes

MIB = 2**20
torch.ones(7 * MIB)  # 28 MiB, mapped and freed: glibc raises its threshold to that

def freed_weights():
    weights, kept = [], []
    for _ in range(40):  # 5 MiB each, and between them what stays
        weights.append(torch.ones(5 * MIB // 4))
        kept.append(torch.ones(25_000))
    return kept

before = host_bytes()
if sys.argv[1] == "returning":
    with returning_freed_memory():
        kept = freed_weights()
else:
    kept = freed_weights()
print((host_bytes() - before) // MIB)
"""


@pytest.mark.parametrize(("way", "least", "most"), [("returning", 0, 20), ("glibc's own", 100, 220)])
def test_freed_weights_go_back_to_the_system(way, least, most):
    done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, timeout=300, check=True)
    assert least <= int(done.stdout) <= most


def test_a_setting_in_the_environment_stands():
    code = SCRIPT.replace("before = ", "import os; os.environ['MALLOC_MMAP_THRESHOLD_'] = '33554432'\nbefore = ", 1)
    command = [sys.executable, "-c", code, "returning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) >= 100

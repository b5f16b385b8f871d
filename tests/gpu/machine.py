"""The machine that a protocol ran on, as plain data."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from recording import ROOT

from genesis_ds.versions import versions

CARD = """
import json, torch
card = torch.cuda.get_device_properties(0)
print(json.dumps({"device": card.name, "bytes": card.total_memory, "capability": f"{card.major}.{card.minor}",
                  "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}))
"""


def describe_machine() -> dict[str, Any]:
    """Card, driver, libraries, processor, memory, and the commit that is measured."""
    card = answer([sys.executable, "-c", CARD])  # a process of its own: this one must hold nothing of the card
    driver = answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {
        **(json.loads(card) if card else {"device": "cpu"}),
        "driver": driver.splitlines()[0] if driver else None,
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_bytes": psutil.virtual_memory().total,
        "versions": versions(),
        "git_commit": answer(["git", "describe", "--always", "--dirty", "--abbrev=12"]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def answer(command: list[str]) -> str | None:
    """What the command prints; None where it fails or is not there."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()

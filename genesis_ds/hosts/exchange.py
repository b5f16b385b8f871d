"""One all_reduce over all ranks of a run, at the run's own port and by its backend, with the bandwidth that it has.

The ranks are processes of their own, which can be killed where a collective hangs.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from genesis_ds.engine import rendezvous
from genesis_ds.engine.distributed import device
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError, shown
from genesis_ds.hosts.finding import Finding, fails, ok
from genesis_ds.memory.machine.hardware import MIB, format_bytes

MET_WITHIN, SUMMED_WITHIN = 20, 10
"""Seconds in which the ranks meet, and in which they sum: 30 in all, once they have started."""
STARTED_WITHIN = 60
"""Seconds in which Python and torch start, on a busy machine."""
NBYTES = 64 * MIB
TIMES = 3
"""Sums after the first, which makes connections; the fastest counts."""
MEND = "open the port, and those above 1023, between the hosts in their firewalls; or name the network's interface"
MEND += " in .deepspeed_env: GLOO_SOCKET_IFNAME for CPUs, NCCL_SOCKET_IFNAME for GPUs"


def of_host(address: str, port: int, host: str, slots: Mapping[str, int]) -> list[dict[str, Any]]:
    """Run the ranks of this host, and return what each says: "seconds" of a sum and "backend", or "error"."""
    names = [name for name, count in slots.items() for _ in range(count)]
    first = names.index(host)
    shared = {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(len(names)),
        "LOCAL_WORLD_SIZE": str(slots[host]),
        "GENESIS_DS_HOSTS": json.dumps(names),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "genesis_ds.hosts.exchange"],
            env=os.environ | shared | {"RANK": str(first + local), "LOCAL_RANK": str(local)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        for local in range(slots[host])
    ]
    until = time.monotonic() + STARTED_WITHIN + MET_WITHIN + SUMMED_WITHIN
    return [_said(process, until) for process in started]


def _said(process: "subprocess.Popen[str]", until: float) -> dict[str, Any]:
    try:
        out, _ = process.communicate(timeout=max(0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"error": f"no sum within {MET_WITHIN + SUMMED_WITHIN} s"}
    lines = [line for line in out.splitlines() if line.startswith("{")]  # NCCL may print, too
    return json.loads(lines[-1]) if lines else {"error": f"the rank ended with exit code {process.returncode}"}


def finding(said: Sequence[dict[str, Any]], address: str, port: int) -> Finding:
    """Return what came of it. said: of every rank."""
    at = f"{len(said)} ranks at {address}:{port}"
    if errors := [its["error"] for its in said if "error" in its]:
        return fails(f"{at}: {errors[0]}", MEND)
    seconds, backend = max(its["seconds"] for its in said), said[0]["backend"]
    sent = 2 * (len(said) - 1) / len(said) * NBYTES  # by each rank, in a ring
    return ok(f"{at} by {backend}: {format_bytes(NBYTES)} summed in {seconds:.3f} s, {sent / seconds / 1e9:.2f} GB/s")


def main() -> None:
    """Be one rank, and say how it went in a line of JSON."""
    try:
        seconds = _sum(Ranks.from_environment())
        said: dict[str, Any] = {"seconds": seconds, "backend": dist.get_backend()}
    except (UserError, RuntimeError) as error:
        said = {"error": shown(error).partition("; ")[0]}
    print(json.dumps(said), flush=True)
    os._exit(0)  # a group that has failed may wait for ever


def _sum(ranks: Ranks) -> float:
    """Return the seconds of the fastest sum over all ranks. Raises UserError and torch's RuntimeError."""
    on = device(ranks)
    if on.type == "cuda":
        torch.cuda.set_device(on)
    store = rendezvous.meet(ranks, hosts=json.loads(os.environ["GENESIS_DS_HOSTS"]), seconds=MET_WITHIN)
    backend = "nccl" if on.type == "cuda" else "gloo"
    timeout = timedelta(seconds=SUMMED_WITHIN)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout)
    fastest = float("inf")
    for _ in range(1 + TIMES):
        numbers = torch.full((NBYTES // 4,), float(ranks.rank + 1), device=on)
        started = time.perf_counter()
        dist.all_reduce(numbers)
        right = ranks.world_size * (ranks.world_size + 1) / 2
        if float(numbers[0]) != right or float(numbers[-1]) != right:  # which also waits for the GPU
            raise RuntimeError(f"the sum is wrong: {float(numbers[0])} in the place of {right}")
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


if __name__ == "__main__":
    main()

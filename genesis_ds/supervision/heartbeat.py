"""Hosts tell each other that they live, through the store of the run: a cut link breaks no connection for half an hour.

The first rank of each host beats for it; the others of a host know each other by their processes (stop.py).
"""

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import torch.distributed as dist

from genesis_ds.engine import distributed, rendezvous
from genesis_ds.engine.distributed import Ranks
from genesis_ds.environment import whole_number

LOST_AFTER = 60
"""Seconds without a sign of life after which a host is lost, unless GENESIS_DS_LOST_AFTER says otherwise."""
EVERY = 5.0
"""Seconds between two beats, or a quarter of the above."""
ANSWERS_WITHIN = 5.0
"""Seconds in which a rank that has crashed looks for the one that ended first."""
ALIVE, ENDED = "genesis_ds/alive", "genesis_ds/ended"


def lost_after() -> int:
    """Return the seconds after which a silent host is lost. Raises UserError."""
    return whole_number("GENESIS_DS_LOST_AFTER", LOST_AFTER, 4, 86_400, "give seconds, or unset it")


class Heartbeat:
    """What one rank of a run on several hosts knows of the ranks on the others."""

    def __init__(self, ranks: Ranks, lost: Callable[[str], None]) -> None:
        """Begin to beat and to listen. Every rank makes one. lost: called once, with why the run cannot go on."""
        self.ranks, self.lost, self.silence = ranks, lost, float(lost_after())
        addresses = {a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET}
        own = (socket.gethostname(), sorted(a for a in addresses if not a.startswith("127.")))
        hosts = distributed.gather(own)
        self.names = [name for name, _ in hosts]
        self._host_of = {address: name for name, its in hosts for address in its}
        self._words = rendezvous.connect(ranks, ANSWERS_WITHIN)
        if ranks.local_rank == 0:
            self._store = rendezvous.connect(ranks, self.silence)
            self._store.set(f"{ALIVE}/{ranks.rank}", "0")
            threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def name(self, rank: int) -> str:
        """Return a rank with its host."""
        return f"rank {rank} ({self.names[rank]})"

    def announce(self, reason: str) -> None:
        """Let ranks on other hosts know why this one ends; the first to end is heard."""
        with suppress(dist.DistError):
            self._words.compare_set(ENDED, "", f"{self.name(self.ranks.rank)}: {reason}")

    def why(self, error: Exception) -> str | None:
        """Return whom an error of a collective is about, in a line; None where it is no such error."""
        text = str(error)
        if not (isinstance(error, dist.DistError) or re.search("gloo|NCCL", text)):
            return None
        deadline = time.monotonic() + ANSWERS_WITHIN
        with suppress(dist.DistError):
            while time.monotonic() < deadline:
                if self._words.check([ENDED]):
                    return f"{self._words.get(ENDED).decode()} (it was the first to end)"
                time.sleep(0.2)
        address = re.search(r"\[(\d+\.\d+\.\d+\.\d+)\]", text)
        reason = text.partition("\n")[0].rpartition("]")[2].lstrip(":0123456789 ").partition(". This")[0]
        host = self._host_of.get(address[1], address[1]) if address else "a rank"
        there = ", ".join(str(rank) for rank, name in enumerate(self.names) if name == host)
        return f"lost {host}{f' (rank {there})' if there else ''}: {reason}"

    def _beat(self) -> None:
        firsts = range(0, self.ranks.world_size, self.ranks.local_world_size)
        others = [rank for rank in firsts if rank != self.ranks.rank]
        heard = dict.fromkeys(others, (b"", time.monotonic()))
        pause, n_beats = min(EVERY, self.silence / 4), 0
        while True:
            try:
                n_beats += 1
                self._store.set(f"{ALIVE}/{self.ranks.rank}", str(n_beats))
                beats = self._store.multi_get([f"{ALIVE}/{rank}" for rank in others])
            except dist.DistError as error:
                time.sleep(pause)  # rank 0 may have ended as it should, and this one be about to
                self.lost(f"{rendezvous.address()} does not answer: {str(error).partition(chr(10))[0][:120]}")
                return
            now = time.monotonic()
            for rank, beat in zip(others, beats, strict=True):
                if beat != heard[rank][0]:
                    heard[rank] = (beat, now)
            if silent := [rank for rank in others if now - heard[rank][1] > self.silence]:
                names = ", ".join(map(self.name, silent))
                self.lost(f"nothing was heard of {names} for {self.silence:.0f} s: the host or the network is gone")
                return
            time.sleep(pause)

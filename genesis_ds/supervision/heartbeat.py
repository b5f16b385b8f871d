"""Hosts tell each other that they live, through the store of the run: a cut link breaks no connection for half an hour.

The first rank of each host beats for it; the others of a host know each other by their processes (stop.py).
"""

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil
import torch.distributed as dist

from genesis_ds.engine import distributed, rendezvous
from genesis_ds.engine.ranks import Ranks
from genesis_ds.environment import whole_number

T = TypeVar("T")
LOST_AFTER = 60
"""Seconds without a sign of life after which a host is lost, unless GENESIS_DS_LOST_AFTER says otherwise."""
EVERY = 5.0
"""Seconds between two beats, or a quarter of the above."""
ANSWERS_WITHIN = 5.0
"""Seconds in which a rank that has crashed looks for the one that ended first."""
ANNOUNCED_WITHIN = 2.0
ALIVE, ENDED = "genesis_ds/alive", "genesis_ds/ended"


def lost_after() -> int:
    """Return the seconds after which a silent host is lost. Raises UserError."""
    return whole_number("GENESIS_DS_LOST_AFTER", LOST_AFTER, 4, 86_400, "give seconds, or unset it")


class Heartbeat:
    """What one rank of a run on several hosts knows of the ranks on the others."""

    def __init__(self, ranks: Ranks) -> None:
        """Begin to beat and to listen. Every rank makes one."""
        self.ranks, self.silence = ranks, float(lost_after())
        addresses = {a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET}
        own = (socket.gethostname(), sorted(a for a in addresses if not a.startswith("127.")))
        hosts = distributed.gather(own)
        self.names = [name for name, _ in hosts]
        self._host_of = {address: name for name, its in hosts for address in its}
        self._words = rendezvous.connect(ranks, ANSWERS_WITHIN)
        self._heard: dict[int, tuple[bytes, float]] = {}
        if ranks.local_rank == 0:
            firsts = range(0, ranks.world_size, ranks.local_world_size)
            self._heard = dict.fromkeys((rank for rank in firsts if rank != ranks.rank), (b"", time.monotonic()))
            threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def name(self, rank: int) -> str:
        """Return a rank with its host."""
        return f"rank {rank} ({self.names[rank]})"

    def announce(self, reason: str) -> None:
        """Let ranks on other hosts know why this one ends; the first to end is heard."""
        words = f"{self.name(self.ranks.rank)}: {reason}"
        _within(ANNOUNCED_WITHIN, lambda: self._words.compare_set(ENDED, "", words))

    def why(self, error: Exception) -> str | None:
        """Return whom an error of a collective is about, in a line; None where it is no such error."""
        text = str(error)
        if not (isinstance(error, dist.DistError) or re.search("gloo|NCCL", text)):
            return None
        if first := _within(ANSWERS_WITHIN, self._first_end):
            return f"{first} (it was the first to end)"
        address = re.search(r"\[(\d+\.\d+\.\d+\.\d+)\]", text)
        host = self._host_of.get(address[1], address[1]) if address else "a rank"
        there = ", ".join(str(rank) for rank, name in enumerate(self.names) if name == host)
        return f"lost {host}{f' (rank {there})' if there else ''}: {cause(text)}"

    def silence_of(self) -> str | None:
        """Return which hosts have been silent for too long, in a line; None where none has."""
        now = time.monotonic()
        if silent := [rank for rank, (_, heard_at) in self._heard.items() if now - heard_at > self.silence]:
            names = ", ".join(map(self.name, silent[:4])) + (f" and {len(silent) - 4} more" if len(silent) > 4 else "")
            return f"nothing was heard of {names} for {self.silence:.0f} s: the host or the network is gone"
        return None

    def _first_end(self) -> str:
        self._words.wait([ENDED])
        return str(self._words.get(ENDED).decode())

    def _beat(self) -> None:
        """Beat, and note who else does. The store may keep a call for ever where the link is cut."""
        store, own, n_beats = rendezvous.connect(self.ranks, self.silence), f"{ALIVE}/{self.ranks.rank}", 0
        with suppress(dist.DistError):
            while True:
                n_beats += 1
                store.set(own, str(n_beats))
                for rank, beat in zip(self._heard, store.multi_get([f"{ALIVE}/{r}" for r in self._heard]), strict=True):
                    if beat != self._heard[rank][0]:
                        self._heard[rank] = (beat, time.monotonic())
                time.sleep(min(EVERY, self.silence / 4))


def cause(error: str) -> str:
    """Return what an error of gloo or NCCL names as the cause, without its place in their source and the address."""
    return re.sub(r"\s*\[[^]]*\](:\d+\b)?", "", error.partition("\n")[0]).partition(". This")[0].strip(" .:")


def _within(seconds: float, ask: Callable[[], T]) -> T | None:
    """Return the store's answer; None where it gives none in time: with a cut link it keeps a call for ever."""
    answers: list[T] = []

    def listen() -> None:
        with suppress(dist.DistError):
            answers.append(ask())

    thread = threading.Thread(target=listen, daemon=True, name="store")
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None

"""Where the ranks of a run meet before there is a process group: a store that rank 0, or torchrun, keeps on its host.

Here it is said for whom the others wait, and what one of them has found wrong ends all of them at once.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError

MINUTES = 5
"""How long ranks wait for each other at the start. They are started together, and come within a minute."""
SAID_AFTER = 10.0
"""Seconds of waiting after which a rank says so; it says it again after three times as long."""
MET, ARRIVED, READ = "genesis_ds/met", "genesis_ds/arrived", "genesis_ds/read"


class Verdict(UserError):
    """Why the ranks do not begin, which rank 0 knows as well as the one that raises it."""


def address() -> str:
    """Return where the ranks of the run meet, host:port."""
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def connect(ranks: Ranks, seconds: float) -> TCPStore:
    """Return the store of the run, which rank 0 makes, unless torchrun has. Raises DistNetworkError.

    seconds: how long it is tried to reach, and how long any of its answers may take.
    """
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=ranks.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        multi_tenant=True,
    )


def meet(
    ranks: Ranks,
    *,
    mistake: str = "",
    hosts: Sequence[str] = (),
    seconds: float = 60 * MINUTES,
    said_after: float = SAID_AFTER,
) -> TCPStore:
    """Wait for every rank; return the store. Raises UserError on all of them, where one brings a mistake, or is late.

    mistake: what this rank has found wrong, if anything. hosts: the names of the run's, by rank, where they are known.
    """
    deadline = time.monotonic() + seconds
    host = socket.gethostname()
    with _said(f"waiting for rank 0 at {address()}", said_after if ranks.local_rank == 0 else seconds + 1):
        try:
            store = connect(ranks, seconds)
        except dist.DistNetworkError as error:
            if ranks.is_main:
                raise
            late = f"rank 0 was not at {address()} within {seconds / 60:.0f} minutes"
            raise UserError(f"{late}; see whether it runs, and whether a firewall closes the port") from error
    wrong = f"{mistake} (rank {ranks.rank}, on {host})" if mistake and not ranks.is_main else mistake
    store.set(f"{ARRIVED}/{ranks.rank}", wrong)
    if ranks.is_main:
        store.set(MET, _first_mistake(store, ranks.world_size, hosts, deadline, said_after))
    with _gone_is_mistake():
        store.wait([MET], timedelta(seconds=max(1.0, deadline + 30 - time.monotonic())))
        verdict = store.get(MET).decode()
        store.add(READ, 1)
    if verdict:
        until = time.monotonic() + 2
        while ranks.is_main and store.add(READ, 0) < ranks.world_size and time.monotonic() < until:
            time.sleep(0.05)  # the store ends with this process
        raise Verdict(verdict)
    return store


def _first_mistake(store: TCPStore, world_size: int, hosts: Sequence[str], deadline: float, said_after: float) -> str:
    """Wait for all; return the first mistake that one of them brings, or that some are late; "" where all is well."""
    missing, said_at = list(range(world_size)), time.monotonic() + said_after
    while missing:
        came = [rank for rank in missing if store.check([f"{ARRIVED}/{rank}"])]
        if wrong := next(filter(None, (store.get(f"{ARRIVED}/{rank}").decode() for rank in came)), ""):
            return wrong
        missing = [rank for rank in missing if rank not in came]
        now = time.monotonic()
        if missing and now > deadline:
            late = f"{_of_ranks(missing, world_size, hosts)} did not come to {address()} in time"
            return f"{late}; see what its host says, and whether a firewall closes the port"
        if missing and now > said_at:
            said_after *= 3
            said_at = now + said_after
            _say(f"waiting for {_of_ranks(missing, world_size, hosts)}")
        time.sleep(0.1 if missing else 0)
    return ""


def _of_ranks(missing: Sequence[int], world_size: int, hosts: Sequence[str]) -> str:
    names = list(dict.fromkeys(hosts[rank] for rank in missing)) if hosts else [f"rank {rank}" for rank in missing]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{len(missing)} of {world_size} ranks at {address()} ({', '.join(names[:4])}{more})"


@contextmanager
def _said(line: str, after: float) -> Iterator[None]:
    """Print the line if what is done within takes longer than so many seconds."""
    timer = threading.Timer(after, _say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _gone_is_mistake() -> Iterator[None]:
    try:
        yield
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        raise UserError(f"rank 0 at {address()} is gone, or does not answer; it may have said why") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def require_reachable(host: str) -> None:
    """Raise UserError where this host's name leads to itself alone: gloo would tell other hosts that address."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    try:
        found = socket.gethostbyname(host)
    except OSError:
        found = "not known"
    if found.startswith(("127.", "not")):
        raise UserError(
            f"{host}: is {found} by its own /etc/hosts, where no other host reaches it; give it its address there, or "
            "set GLOO_SOCKET_IFNAME to its network interface (in .deepspeed_env for deepspeed --hostfile)"
        )

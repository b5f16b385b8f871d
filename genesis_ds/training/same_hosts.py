"""The hosts of a run are alike, and see the same files: what is not is refused at the start, by host and name."""

import dataclasses
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from genesis_ds.config import RunConfig
from genesis_ds.config.changes import flat
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import barrier, from_main, gather, raise_on_all_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError, named_by_user
from genesis_ds.versions import git_commit, versions

DIFFERENT_VERSIONS = "different_versions"
"""The value of --allow by which versions and commits may differ."""
SHOWN = 3
"""Differences that are named."""
SEEN_WITHIN = 10.0
"""Seconds after which a host's view of a network file system is as new as it gets."""

Facts = dict[str, Any]


def require_same_run(config: RunConfig, ds_config: Resolved, ranks: Ranks, *, allow: str | None = None) -> None:
    """Raise UserError on every rank where hosts have another run, ds_config, version or commit than the first.

    allow: DIFFERENT_VERSIONS leaves versions and commits out.
    """
    if ranks.nodes == 1:
        return
    own = flat({"run": dataclasses.asdict(config), "ds_config": ds_config.config})
    require_same(own, ranks, "give all hosts the same files")
    if allow != DIFFERENT_VERSIONS:
        commit = git_commit() if ranks.local_rank == 0 else None
        require_same(
            flat({"version": versions(), "commit": commit}),
            ranks,
            f"install the same on all hosts, or go on with --allow {DIFFERENT_VERSIONS}",
        )


def require_same(own: Facts, ranks: Ranks, remedy: str) -> None:
    """Raise UserError on every rank where the facts of a host's first rank are not those of the first host's."""
    found = gather((socket.gethostname(), own) if ranks.local_rank == 0 else None)
    if differs := difference([fact for fact in found if fact]):
        raise UserError(f"{differs}; {remedy}")


def difference(found: Sequence[tuple[str, Facts]]) -> str:
    """Say in what a host differs from the first; "" where none does. found: (host, {name: value}) of each."""
    (first, right), *others = found
    for host, facts in others:
        names = [name for name in dict.fromkeys([*right, *facts]) if right.get(name) != facts.get(name)]
        if names:
            shown = (f"{name} is {facts.get(name)!r} there, {right.get(name)!r} here" for name in names[:SHOWN])
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            return f"{host} differs from {first}: {', '.join(shown)}{more}"
    return ""


def require_shared(directory: Path, ranks: Ranks) -> None:
    """Raise UserError on every rank where a host does not see the first one's directory. Leaves nothing behind."""
    if ranks.nodes == 1:
        return
    first, name = from_main((socket.gethostname(), f".seen-by-all-{secrets.token_hex(8)}"))
    nonce = directory / name
    absent = [path for path in (directory, *directory.parents) if not path.exists()] if ranks.is_main else []
    try:
        raise_on_all_ranks(lambda: make_nonce(nonce) if ranks.is_main else None)
        raise_on_all_ranks(lambda: require_seen(nonce, first) if ranks.local_rank == 0 else None)
        barrier()
    finally:
        if ranks.is_main:
            nonce.unlink(missing_ok=True)
            for made in absent:
                with suppress(OSError):  # another process has put something there
                    made.rmdir()


def make_nonce(nonce: Path) -> None:
    """Make an empty file by which others find out that they see its directory. Raises UserError."""
    with named_by_user(nonce.parent, "output_dir", "choose another --output_dir"):
        nonce.parent.mkdir(parents=True, exist_ok=True)
        nonce.touch()


def require_seen(nonce: Path, first: str) -> None:
    """Raise UserError where this host does not see a file that the first has made, not even after a while."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not nonce.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"output_dir: {socket.gethostname()} does not see {nonce.parent} of {first}: put output_dir on a file "
                "system that all hosts share, at one path"
            )
        time.sleep(0.2)

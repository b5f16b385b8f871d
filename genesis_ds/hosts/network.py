"""Checks of a host among others: names and addresses, the way to the others, ports."""

import os
import socket
import subprocess

import psutil

from genesis_ds.engine.distributed import accelerator
from genesis_ds.engine.rendezvous import require_reachable
from genesis_ds.errors import UserError, shown
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.finding import Finding, fails, ok, warning
from genesis_ds.hosts.reach import SSH_WITHIN, mend_ssh, ssh_command


def own_name(case: Case) -> Finding | None:
    """Look at what this host's name leads to: gloo tells the other hosts that address."""
    name = socket.gethostname()
    if len(case.slots) == 1:
        return None
    if accelerator() == "cuda":
        return ok(f"{name}; NCCL goes by interfaces, not by names")
    require_reachable(name)
    if interface := os.environ.get("GLOO_SOCKET_IFNAME"):
        return ok(f"{name}; GLOO_SOCKET_IFNAME={interface} says the address")
    return ok(f"{name} is {socket.gethostbyname(name)}")


def names(case: Case) -> Finding:
    """Look at whether this host knows the names of the hostfile, and that they lead to other hosts."""
    found = {name: _address(name) for name in case.slots}
    for name, address in found.items():
        if not address:
            return fails(f"{name} of the hostfile is not known", f"put its address into /etc/hosts of {case.host}")
        if address.startswith("127.") and name != case.host:
            return fails(f"{name} of the hostfile is {address}, this host itself", f"mend /etc/hosts of {case.host}")
    return ok(", ".join(f"{name} {address}" for name, address in list(found.items())[:4]))


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        return ""


def route(case: Case) -> Finding | None:
    """Look at the interface by which this host reaches the first one, or the first one the second."""
    if len(case.slots) == 1:
        return None
    other = next(name for name in case.slots if name != case.host)
    own = _own_address(other, case.port)
    interfaces = {
        name: {a.address for a in its if a.family == socket.AF_INET} for name, its in psutil.net_if_addrs().items()
    }
    used = next(name for name, its in interfaces.items() if own in its)
    speed = psutil.net_if_stats()[used].speed
    reached = f"{other} is reached by {used} ({own})"
    if accelerator() == "cuda":
        return ok(f"{reached}{f', {speed:,} Mbit/s' * (speed > 0)}")
    to_set = f"write GLOO_SOCKET_IFNAME={used} into .deepspeed_env"
    wanted, told = os.environ.get("GLOO_SOCKET_IFNAME"), _address(socket.gethostname())
    if wanted and wanted not in interfaces:
        return fails(f"GLOO_SOCKET_IFNAME={wanted}, an interface that is not here ({', '.join(interfaces)})", to_set)
    if wanted and wanted != used:
        return fails(f"GLOO_SOCKET_IFNAME={wanted}, but {reached}", to_set)
    if not wanted and told != own and not told.startswith("127."):  # which own_name tells of
        return warning(f"{reached}, but ranks tell each other {told or 'no address'}", to_set)
    return ok(f"{reached}{f', {speed:,} Mbit/s' * (speed > 0)}")


def _own_address(other: str, port: int) -> str:
    """Return the address from which this host sends to another. Raises UserError where there is no way to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((other, port))  # nothing is sent
            return str(sender.getsockname()[0])
    except OSError as error:
        raise UserError(f"no way to {other}: {error.strerror}; see ip route, and its network cable") from error


def ssh_back(case: Case) -> Finding | None:
    """Look at whether this host reaches the first by ssh; a run can be started from here then too."""
    first = next(iter(case.slots))
    if case.host == first:
        return None
    reason = _ssh_says(first)
    if not reason:
        return ok(f"reaches {first}")
    return warning(f"{first}: {reason}; a run can be started on {first} alone", mend_ssh(reason, first, case.host))


def _ssh_says(host: str) -> str:
    """Return why ssh does not reach a host; "" where it does."""
    try:
        asked = subprocess.run(
            ssh_command(host, "true"),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=2 * SSH_WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return shown(error)
    return (asked.stderr.strip().splitlines() or ["no reason was given"])[-1] if asked.returncode else ""


def port(case: Case) -> Finding | None:
    """Look at whether the port where the ranks are to meet is free on the first host."""
    first = next(iter(case.slots))
    if case.host != first:
        return None
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", case.port))
        except OSError as error:
            mend = f"end it, or give the launcher another port: --master_port {case.port + 1}"
            return fails(f"{case.port}: {error.strerror}{_holder(case.port)}", mend)
    return ok(f"{case.port} is free")


def _holder(port: int) -> str:
    """Say which process listens on a port, where this user may know."""
    found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid]
    return f" by process {found[0].pid} ({psutil.Process(found[0].pid).name()})" if found else ""


CHECKS = (own_name, names, route, ssh_back, port)

"""The environment variables of a launcher or a person, read strictly."""

import io
import locale
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from genesis_ds.errors import UserError

LONGEST_TIMEOUT = 10**6
"""Minutes: two years."""
LAUNCHER = "the launcher (deepspeed, torchrun) sets it: start the run by one, or unset it"


def whole_number(name: str, default: int, least: int, most: int, remedy: str = LAUNCHER) -> int:
    """Return the value of an environment variable; `default` where it is not set, or empty. Raises UserError."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not least <= int(text) <= most:
        raise UserError(f"{name}: '{text}' is not a whole number from {least} to {most:,}; {remedy}")
    return int(text)


def check() -> None:
    """Raise UserError for a variable that torch or DeepSpeed would fail on later, or pass over."""
    whole_number("DEEPSPEED_TIMEOUT", default=1, least=1, most=LONGEST_TIMEOUT, remedy="give minutes, or unset it")
    whole_number("MASTER_PORT", default=1, least=1, most=65535, remedy="give a free port, or unset it")
    if address := os.environ.get("MASTER_ADDR"):
        try:
            socket.getaddrinfo(address, None)
        except (OSError, UnicodeError):
            raise UserError(f"MASTER_ADDR: '{address}' is not known on this host; {LAUNCHER}") from None
    if (encoding := locale.getpreferredencoding(False)).lower().replace("-", "") != "utf8":
        raise UserError(
            f"the locale's encoding is {encoding}, by which torch cannot read its own files; set LC_ALL=C.UTF-8 or "
            "PYTHONUTF8=1"
        )
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", threads, re.ASCII):
        raise UserError(f"OMP_NUM_THREADS: '{threads}' is not a number of threads; give 1 or more, or unset it")


def threads_are_given() -> bool:
    """Return whether OMP_NUM_THREADS is set, and not by torchrun, which says 1 to several ranks that have none.

    torchrun changes its own environment for that; /proc has the one that it was started with.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        with suppress(OSError):
            return b"\0OMP_NUM_THREADS=" in b"\0" + Path(f"/proc/{os.getppid()}/environ").read_bytes()
    return "OMP_NUM_THREADS" in os.environ


def print_anything() -> None:
    """Let whatever is printed be shown as an escape where the terminal's encoding has no sign for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

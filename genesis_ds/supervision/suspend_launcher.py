"""Started by a rank that saves before it stops: `python suspend_launcher.py PID`, standard input a pipe from the rank.

Suspends the launcher PID while the rank saves, so that it cannot kill it, and continues it when the rank is gone.
"""

import os
import select
import signal
import sys

SECONDS = 10
"""Most saves are done by then, and nothing needs to be suspended. Launchers kill after 30."""


def main() -> None:
    """Wait for the end of standard input, with the launcher suspended after SECONDS."""
    launcher = int(sys.argv[1])
    rank_is_gone, _, _ = select.select([0], [], [], SECONDS)
    if not rank_is_gone:
        os.kill(launcher, signal.SIGSTOP)
        os.read(0, 1)
        os.kill(launcher, signal.SIGCONT)


if __name__ == "__main__":
    main()

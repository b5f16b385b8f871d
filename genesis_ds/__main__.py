"""The `genesis-ds` command, and `python -m genesis_ds`: an interrupt is one line also while it is being loaded."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run cli.main; return its exit code, or 130 after an interrupt."""
    try:
        from genesis_ds import cli

        return cli.main(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

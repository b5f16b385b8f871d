"""Pictures in files."""

from pathlib import Path
from typing import Any

from genesis_ds.disk import replacing, require_alike
from genesis_ds.errors import UserError

SIGNATURE = 4
"""Bytes by which a kind of picture is known."""


def check_picture(path: Path) -> None:
    """Raise UserError where no picture can be put at the path, by its name or the directory it is in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = FigureCanvasAgg.filetypes
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"--plot {path}: not a kind of picture; end the name in one of .{', .'.join(sorted(kinds))}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: it is in no directory that is there; make it first")


def save_picture(figure: Any, path: Path) -> None:
    """Put a matplotlib figure into a file, in the place of an earlier picture of its kind alone."""
    check_picture(path)
    with replacing(path) as temporary:
        figure.savefig(temporary)
        require_alike(path, temporary.read_bytes()[:SIGNATURE])

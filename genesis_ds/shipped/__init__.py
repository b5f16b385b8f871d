"""The runs, ds_configs and tokenizer recipes that come with the package, by the paths they have in a checkout.

In a checkout they are links to the folders of the top level; a wheel holds the files.
"""

import os
from pathlib import Path

SHIPPED = Path(__file__).parent


def find_shipped(path: str) -> Path | None:
    """Return the shipped file that a relative path names, such as ds_configs/zero2.json, where the user has none."""
    if os.path.isabs(path) or ".." in Path(path).parts or os.path.lexists(path):
        return None
    shipped = os.path.join(SHIPPED, path)
    return Path(shipped).resolve() if os.path.isfile(shipped) and not shipped.endswith(".py") else None

"""Read a ds_config file: strict JSON, no duplicate keys. DeepSpeed reads HJSON and says less when it fails."""

from pathlib import Path
from typing import Any

from genesis_ds.user_files import expanded, load_json


def load_ds_config(path: str | Path, flag: str = "--ds_config") -> dict[str, Any]:
    """Return the JSON object in a file; ~ is home. Raises UserError for a missing file, no JSON, and a repeated key.

    flag: the one that names it, for messages.
    """
    config = load_json(path, flag, "the DeepSpeed configurations are in ds_configs/")
    zero = config.get("zero_optimization")
    for name, section in zero.items() if isinstance(zero, dict) else ():
        if isinstance(section, dict) and isinstance(folder := section.get("nvme_path"), str):
            section["nvme_path"] = expanded(folder, f"{path}: zero_optimization.{name}.nvme_path")
    return config

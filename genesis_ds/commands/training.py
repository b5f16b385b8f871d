"""The commands that prepare training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def presets() -> None:
    """List the named model shapes and their parameter counts with the byte vocabulary.

    Examples:
        genesis-ds presets
    """
    from genesis_ds.config import ModelShape
    from genesis_ds.config.presets import PRESETS

    print(f"{'preset':<18}{'layers':>7}{'dim':>6}{'heads':>6}{'ffn':>6}  {'norm':<9}{'parameters':>14}")
    for name, shape in PRESETS.items():
        model = ModelShape(**shape, vocab_size=260)
        sizes = f"{model.n_layers:>7}{model.dim:>6}{model.n_heads:>6}{model.intermediate_size:>6}"
        print(f"{name:<18}{sizes}  {model.norm:<9}{model.n_parameters:>14,}")


@dataclass(frozen=True)
class ConvertFlags:
    """What `config convert` takes."""

    path: str
    """The TOML."""
    output: str | None = None
    """The YAML to write. None: FILE.yaml in this directory."""
    set: tuple[str, ...] = ()
    """NAME=VALUE for a placeholder {{NAME}} of a template; give as many as it has."""
    strict: bool = False
    """Write nothing where a key has no counterpart."""


def config_convert(flags: ConvertFlags) -> int:
    """Make a run's YAML of a TOML of the earlier Genesis Arbiter code. Exit code 1: --strict, and something is lost.

    It prints what becomes of every key.

    Examples:
        genesis-ds config convert genesis_config.toml --output mine.yaml
        genesis-ds config convert template.toml --set LAYERS=24 --set DIM=384 --strict
    """
    from genesis_ds.config.convert.command import convert_file

    output = Path(flags.output or f"{Path(flags.path).stem}.yaml")
    lines, written = convert_file(flags.path, output, flags.set, strict=flags.strict)
    print(*lines, sep="\n")
    return 0 if written else 1


def build(operation: Literal["cpu_adam", "bf16_adam", "async_io", "pin_memory"]) -> None:
    """Compile an operation ahead of the first run (1-2 minutes; bf16_adam 1 second).

    Args:
        operation: cpu_adam is DeepSpeed's offloaded optimizer, bf16_adam updates its bf16 master weights, async_io
            serves NVMe offload, pin_memory exact pinning.

    Examples:
        genesis-ds build cpu_adam
    """
    from genesis_ds.engine import compiled_ops

    compiled_ops.build(operation)
    print(f"{operation} is built")

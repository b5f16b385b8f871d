"""Named model shapes. Parameter counts are computed (`ModelShape.n_parameters`), never written down."""

from collections.abc import Collection
from typing import Any

from genesis_ds.errors import UserError, nearest

HEAD_DIM = 64


def _arbiter_shape(n_layers: int, dim: int, norm: str = "deepnorm") -> dict[str, Any]:
    """Return a shape of the earlier Genesis Arbiter code: its feed-forward layer is 4 times as wide as the model."""
    return _shape(n_layers, dim, intermediate_size=4 * dim, norm=norm)


def _llama_shape(n_layers: int, dim: int) -> dict[str, Any]:
    """Return a shape by Llama's rule: feed-forward 8/3 of the width, rounded up to a multiple of 256."""
    return _shape(n_layers, dim, intermediate_size=-(-8 * dim // (3 * 256)) * 256)


def _shape(n_layers: int, dim: int, intermediate_size: int, norm: str = "deepnorm") -> dict[str, Any]:
    return {
        "n_layers": n_layers,
        "dim": dim,
        "n_heads": dim // HEAD_DIM,
        "intermediate_size": intermediate_size,
        "norm": norm,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "12x768": _arbiter_shape(12, 768, norm="rmsnorm"),
    "deep_narrow_32": _arbiter_shape(32, 640),
    "40x768": _arbiter_shape(40, 768),
    "deep_narrow_48": _arbiter_shape(48, 896),
    "deep_narrow_60": _arbiter_shape(60, 768),
    "theos_small": _arbiter_shape(80, 1024),
    "deep_narrow_100": _arbiter_shape(100, 1024),
    "high_res_arbiter": _arbiter_shape(24, 1024, norm="rmsnorm"),
    "tower_of_truth": _shape(144, 288, intermediate_size=576, norm="rmsnorm") | {"n_heads": 12},
    "deep_50m": _llama_shape(28, 384),
    "rtx4070_optimal": _llama_shape(48, 768),
    "deep_narrow_80": _llama_shape(80, 768),
    "frontier_1b": _llama_shape(80, 1024),
    "tower_144": _llama_shape(144, 1024),
    "frontier_2b": _llama_shape(104, 1280),
    "tower_144_tiny": _shape(144, 32, intermediate_size=96) | {"n_heads": 2},
    "quickstart": _shape(8, 96, intermediate_size=256) | {"n_heads": 3},
}
RENAMED = {"microscope": "12x768", "deep_narrow_40": "40x768"}
"""Name of before -> the name now, as the earlier Genesis Arbiter code gives it to another shape."""


def preset(name: str, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the ModelConfig fields of a named shape.

    given: fields that stand beside the name. A name of before counts only where they are all of the shape, as in the
    config.yaml of a run that has it. Raises UserError for another name.
    """
    if name in RENAMED:
        shape = PRESETS[RENAMED[name]]
        if shape.keys() <= set(given):
            return {}
        raise UserError(
            f"model.preset: '{name}' is named '{RENAMED[name]}' now, {shape['n_layers']} layers of width "
            f"{shape['dim']}, as the earlier Genesis Arbiter code gives that name to another shape; give the new one"
        )
    if name not in PRESETS:
        raise UserError(f"model.preset: no shape is named '{name}'; {nearest(name, PRESETS)}")
    return dict(PRESETS[name])

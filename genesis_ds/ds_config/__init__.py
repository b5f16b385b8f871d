"""A DeepSpeed configuration as plain data: load, lint, resolve. Imports no deepspeed."""

from genesis_ds.ds_config.lint import Finding, check, lint
from genesis_ds.ds_config.load import load_ds_config
from genesis_ds.ds_config.resolve import Resolved, resolve
from genesis_ds.ds_config.settings import OptimizerSettings, RunSettings

__all__ = ["Finding", "OptimizerSettings", "Resolved", "RunSettings", "check", "lint", "load_ds_config", "resolve"]

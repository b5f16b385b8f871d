"""A run on a machine: what a plan is made for, and what advice and search change."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.config.resolve import SizedRun, run_settings
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.ds_config import load_ds_config, resolve
from genesis_ds.memory.machine.hardware import Hardware
from genesis_ds.memory.plan import Plan
from genesis_ds.memory.planner import AllocatorSettings, gpu_at_least, make_plan, states_at_least
from genesis_ds.tasks.load import sized_run


@dataclass(frozen=True)
class Scenario:
    """A run whose vocabulary size is known, its ds_config, a machine, and the allocators' settings."""

    run: RunConfig
    run_source: str
    """Where its values come from, for messages."""
    ds_config: dict[str, Any]
    ds_config_file: str
    hardware: Hardware
    settings: AllocatorSettings = field(default_factory=AllocatorSettings)
    teachers: tuple[ModelShape, ...] = ()
    """The models of the run's teacher (`distill`), as their files say."""

    def sized(self) -> SizedRun:
        """Return the run with what DeepSpeed would get. Raises UserError where its ds_config contradicts it."""
        resolved = resolve(
            self.ds_config,
            where=self.ds_config_file,
            run=run_settings(self.run, self.run_source),
            world_size=self.hardware.world_size,
            accelerator="cuda" if self.hardware.has_gpu else "cpu",
            cpu_adam_available=True,
        )
        model = self.run.model if isinstance(self.run.model, ModelShape) else fit_vocabulary(self.run)
        return sized_run(self.run, model, resolved, self.teachers)

    def plan(self) -> Plan:
        """What one rank needs; made once."""
        return self._plan

    @cached_property
    def _plan(self) -> Plan:
        return make_plan(self.sized(), self.hardware, self.settings)

    def states_fit(self) -> bool:
        """Whether the weights and moments alone do: True says little, and no model is traced for it."""
        return states_at_least(self.sized(), self.hardware) <= self._room

    def fits(self) -> bool:
        """Whether the plan fits; without making it where a lower bound already says no."""
        if not self.states_fit():
            return False
        if self.hardware.has_gpu and gpu_at_least(self.sized(), self.hardware) > self._room:
            return False
        return self.plan().fits

    @property
    def _room(self) -> int:
        """Bytes for the tensors of a rank: on its GPU, or on the host without one."""
        hardware = self.hardware
        if hardware.has_gpu:
            return hardware.usable_gpu_bytes - hardware.gpu_overhead_bytes
        return hardware.usable_host_bytes - hardware.process_bytes

    def with_model(self, **fields: Any) -> "Scenario":
        """Another shape."""
        return self._with_section("model", fields)

    def with_batch(self, **fields: Any) -> "Scenario":
        """Another batch."""
        return self._with_section("batch", fields)

    def with_checkpointing(self, **fields: Any) -> "Scenario":
        """Other activation checkpointing."""
        return self._with_section("activation_checkpointing", fields)

    def with_distill(self, **fields: Any) -> "Scenario":
        """Other distillation."""
        return self._with_section("distill", fields)

    def with_compile(self, **fields: Any) -> "Scenario":
        """Other compilation."""
        return self._with_section("compile", fields)

    def with_zero(self, **keys: Any) -> "Scenario":
        """Other keys of zero_optimization; None removes one."""
        return self.with_section("zero_optimization", **keys)

    def with_section(self, section: str, **keys: Any) -> "Scenario":
        """Other keys of a section of the ds_config; None removes one."""
        merged = {key: value for key, value in (self.ds_config.get(section, {}) | keys).items() if value is not None}
        return dataclasses.replace(self, ds_config=self.ds_config | {section: merged})

    def with_ds_config_file(self, path: Path) -> "Scenario":
        """Another ds_config."""
        return dataclasses.replace(self, ds_config=load_ds_config(str(path)), ds_config_file=str(path))

    def with_hardware(self, **fields: Any) -> "Scenario":
        """Another machine."""
        return dataclasses.replace(self, hardware=dataclasses.replace(self.hardware, **fields))

    def with_settings(self, **fields: Any) -> "Scenario":
        """Other settings of the allocators."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **fields))

    def _with_section(self, section: str, fields: dict[str, Any]) -> "Scenario":
        changed = dataclasses.replace(getattr(self.run, section), **fields)
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **{section: changed}))

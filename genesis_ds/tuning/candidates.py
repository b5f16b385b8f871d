"""The settings that a run may be trained with for the same result: what is recomputed, rows at once, the ds_config."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds import environment
from genesis_ds.config.parse import DEFAULT_DS_CONFIG
from genesis_ds.ds_config import load_ds_config
from genesis_ds.ds_config.lint import offload_device, zero_section
from genesis_ds.errors import UserError
from genesis_ds.flops import hardware_flops_per_token
from genesis_ds.memory.answers.advice import BUDGETS, MODES, fp32_accumulation, offloads, overlapped
from genesis_ds.memory.answers.speed import shipped_ds_configs
from genesis_ds.memory.answers.step_time import StepTime, step_time
from genesis_ds.memory.scenario import Scenario


@dataclass(frozen=True)
class Recomputation:
    """What a run keeps of its activations."""

    mode: str
    every: int = 1
    offload: bool = False
    budget: float = 1.0
    """compile.activation_memory_budget."""

    def __str__(self) -> str:
        """Return it in a word or two."""
        every = f", every {self.every}" if self.every > 1 else ""
        offload = ", offloaded" if self.offload else ""
        return f"{self.mode}{every}{offload}{f', budget {self.budget:g}' if self.budget < 1 else ''}"


@dataclass(frozen=True)
class Gradients:
    """How the gradients of a card come to an optimizer on the host; as the ds_config's file has it unless set."""

    in_fp32: bool = False
    """data_types.grad_accum_dtype fp32: they add up on the card, and cross PCIe once a step."""
    overlapped: bool = False
    """zero_optimization.overlap_comm: they cross it during the backward pass."""


@dataclass(frozen=True)
class Candidate:
    """Settings to train a run with; its global batch is that of the run."""

    ds_config: str
    """Path of the file."""
    recomputation: Recomputation
    micro_batch_size: int
    gradients: Gradients = Gradients()
    threads: int = 0
    """OMP_NUM_THREADS of a rank; 0: not set."""

    def __str__(self) -> str:
        """Return what is not in the run's YAML, in a few words."""
        changes = [
            *["grad_accum_dtype fp32"] * self.gradients.in_fp32,
            *["overlap_comm"] * self.gradients.overlapped,
            *[f"{self.threads} threads"] * (self.threads > 0),
        ]
        is_shipped = Path(self.ds_config).resolve().parent == DEFAULT_DS_CONFIG.parent
        return " + ".join([Path(self.ds_config).stem if is_shipped else self.ds_config, *changes])

    def of(self, scenario: Scenario) -> Scenario:
        """Return the scenario with these settings."""
        kept = self.recomputation
        if self.ds_config != scenario.ds_config_file:
            scenario = scenario.with_ds_config_file(Path(self.ds_config))
        scenario = scenario.with_checkpointing(mode=kept.mode, every=kept.every, offload=kept.offload)
        scenario = scenario.with_compile(activation_memory_budget=kept.budget)
        scenario = scenario.with_batch(micro_batch_size=self.micro_batch_size)
        if self.gradients.in_fp32:
            scenario = fp32_accumulation(scenario) or scenario
        if self.gradients.overlapped:
            scenario = overlapped(scenario) or scenario
        return scenario

    def settled(self, scenario: Scenario) -> "Candidate":
        """Return the candidate without what would change nothing. Raises UserError for one that is not allowed."""
        if not self.threads and self.gradients == Gradients():
            return self
        plain = dataclasses.replace(self, gradients=Gradients()).of(scenario)
        asked = self.gradients
        return dataclasses.replace(
            self,
            gradients=Gradients(
                asked.in_fp32 and fp32_accumulation(plain) is not None,
                asked.overlapped and overlapped(plain) is not None,
            ),
            threads=self.threads if offloads(plain) or not plain.hardware.has_gpu else 0,
        )

    def values(self) -> dict[str, dict[str, Any]]:
        """Return what a run's YAML says for it."""
        kept = self.recomputation
        return {
            "batch": {"micro_batch_size": self.micro_batch_size},
            "activation_checkpointing": {"mode": kept.mode, "every": kept.every, "offload": kept.offload},
            "compile": {"activation_memory_budget": kept.budget},
        }


def own_candidate(scenario: Scenario) -> Candidate:
    """Return the settings that the run has."""
    now, budget = scenario.run.activation_checkpointing, scenario.run.compile.activation_memory_budget
    recomputation = Recomputation(now.mode, now.every, now.offload, budget)
    return Candidate(scenario.ds_config_file, recomputation, scenario.run.batch.micro_batch_size)


Dimensions = dict[str, list[Any]]
"""Field of a Candidate -> the values that it may have."""


def dimensions(scenario: Scenario, ds_configs: Sequence[str] = ()) -> Dimensions:
    """Return what may be changed, the run's own values among it.

    ds_configs: paths; without any, the shipped files that round the weights as the run's does, and no NVMe. Raises
    UserError for one of them that the run cannot be trained with.
    """
    for path in ds_configs:
        dataclasses.replace(scenario, ds_config=load_ds_config(path, "--ds_configs"), ds_config_file=path).sized()
    own, rows = own_candidate(scenario), scenario.run.batch.global_batch_size // scenario.hardware.world_size
    gpu = scenario.hardware.has_gpu
    files: dict[Path, str] = {}
    for path in (own.ds_config, *(ds_configs or _shipped_alike(scenario))):
        files.setdefault(Path(path).resolve(), path)
    return {
        "ds_config": list(files.values()),
        "recomputation": list(dict.fromkeys([own.recomputation, *_recomputations(scenario)])),
        "micro_batch_size": [size for size in range(rows, 0, -1) if rows % size == 0],
        "gradients": [Gradients(*each) for each in itertools.product((False, True) if gpu else (False,), repeat=2)],
        "threads": [0, *_threads(scenario)],
    }


def _threads(scenario: Scenario) -> Iterator[int]:
    """Yield half of a rank's cores, where the user says nothing of threads: two of them may share a core.

    Not one thread, whose steps `bench` times otherwise on a CPU.
    """
    cores = len(os.sched_getaffinity(0)) // scenario.hardware.gpus_per_node
    if cores >= 4 and not environment.threads_are_given():
        yield cores // 2


def _shipped_alike(scenario: Scenario) -> Iterator[str]:
    given = scenario.ds_config
    for path in shipped_ds_configs():
        shipped = load_ds_config(str(path))
        alike = shipped.get("bf16") == given.get("bf16") and zero_section(shipped) != zero_section(given)
        if alike and offload_device(shipped, "offload_optimizer") != "nvme":
            yield str(path)


def _recomputations(scenario: Scenario) -> Iterator[Recomputation]:
    run = scenario.run
    own = run.extensions.model is not None
    yield from (Recomputation(mode) for mode in (("none", "block") if own else (*MODES, "mlp")))
    if run.compiles_on("cuda" if scenario.hardware.has_gpu else "cpu") and not own:
        yield from (Recomputation("none", budget=budget) for budget in BUDGETS)


def predicted(scenario: Scenario, candidate: Candidate) -> StepTime | None:
    """Return the predicted step; None where there is no prediction for this machine or run."""
    return step_time(candidate.of(scenario).sized(), scenario.hardware)


def by_prediction(scenario: Scenario, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that DeepSpeed and the run allow, the one that should be the fastest first.

    Where no step is predicted: the one that computes the least, then that with the fewest micro-steps. What it costs to
    move over PCIe is not known there, so the order of the ds_configs stays as it is.
    """
    found: dict[Candidate, tuple[float, int]] = {}
    for each in candidates:
        try:
            candidate = each.settled(scenario)
            step = predicted(scenario, candidate)
            cost = step.seconds if step else relative_cost(candidate.of(scenario))
        except UserError:
            continue
        found[candidate] = cost, -candidate.micro_batch_size
    return sorted(found, key=found.__getitem__)


def relative_cost(scenario: Scenario) -> float:
    """Return the FLOPs per token that a device executes; 0 for a model of the user's own, of which they are not known.

    What compiled blocks compute again within a budget is counted as if it were a share of the whole block.
    """
    run, model = scenario.run, scenario.sized().model
    if run.extensions.model is not None:
        return 0.0
    budget = run.compile.activation_memory_budget
    flops = hardware_flops_per_token(model, run.batch.seq_len, run.activation_checkpointing)
    if budget == 1:
        return flops
    blocks = dataclasses.replace(run.activation_checkpointing, mode="block", every=1, offload=False)
    return flops + (1 - budget) * (hardware_flops_per_token(model, run.batch.seq_len, blocks) - flops)


def grid(of: Dimensions) -> list[Candidate]:
    """Return all combinations of what a prediction depends on: threads are not among it."""
    names = [name for name in of if name != "threads"]
    combined = itertools.product(*(of[name] for name in names))
    return [Candidate(**dict(zip(names, values, strict=True))) for values in combined]

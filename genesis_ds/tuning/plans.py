"""Memory plans of candidates, each made once, the cheapest that decide first, with a line of how far they are."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import get_args

from genesis_ds.config import ModelConfig
from genesis_ds.config.model import CheckpointingMode
from genesis_ds.errors import UserError
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning.candidates import Candidate, Gradients

PATIENCE = 10.0
"""Seconds of planning without a line."""


class Plans:
    """Which candidates fit by plan; a plan takes seconds, as a model is traced for it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """say: is told now and then how many plans were made."""
        self.say = say
        self.known: dict[tuple[Candidate, ModelConfig], bool] = {}
        self.said_at = -PATIENCE

    def heard(self) -> None:
        """Take note that something else was said just now."""
        self.said_at = time.monotonic()

    def fits(self, scenario: Scenario, candidate: Candidate) -> bool:
        """Return whether the plan has place for a candidate of a model; False for one that is not allowed."""
        model = scenario.run.model
        key = (candidate, model)
        if key not in self.known:
            if time.monotonic() - self.said_at >= PATIENCE:
                number = len(self.known) + 1
                self.say(f"planning what fits, number {number}: {model.n_layers} x {model.dim}, {candidate}")
                self.heard()
            try:
                self.known[key] = candidate.of(scenario).fits()
            except UserError:
                self.known[key] = False
        return self.known[key]

    def any_fits(self, scenario: Scenario, candidates: Sequence[Candidate]) -> bool:
        """Return whether one of them fits: of each ds_config the one that takes the least is planned alone."""
        return any(self.fits(scenario, each) for each in _leanest(candidates, _file).values())

    def first(self, scenario: Scenario, candidates: Sequence[Candidate]) -> Candidate | None:
        """Return the first that fits; None where none does.

        Once one of a ds_config did not, those of it that take the least are planned before others are.
        """
        least = [(key, _leanest(candidates, key)) for key in (_file, _all_but_rows)]
        tight: set[str] = set()
        for each in candidates:
            if each.ds_config in tight and not all(self.fits(scenario, of[key(each)]) for key, of in least):
                continue
            if self.fits(scenario, each):
                return each
            tight.add(each.ds_config)
        return None


def _file(candidate: Candidate) -> object:
    return candidate.ds_config


def _all_but_rows(candidate: Candidate) -> object:
    return dataclasses.replace(candidate, micro_batch_size=1)


def _leanest(candidates: Sequence[Candidate], key: Callable[[Candidate], object]) -> dict[object, Candidate]:
    """Return, for each key, the candidate that needs the least memory."""

    def takes(candidate: Candidate) -> tuple[float, ...]:
        kept = candidate.recomputation
        mode = get_args(CheckpointingMode).index(kept.mode)
        return candidate.micro_batch_size, -mode, kept.every, kept.budget, candidate.gradients != Gradients()

    return {key(each): each for each in sorted(candidates, key=takes, reverse=True)}

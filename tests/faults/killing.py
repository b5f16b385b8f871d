"""A run is killed again and again and started again each time; `python tests/faults/killing.py` does all of it.

What it prints is a table for docs/checkpoints.md, and its exit code is 0 when every run has resumed each time, lost at
most one save interval, and ended with the losses of the run that nobody killed.
"""

import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.jobs import Job, prepare

EVERY = 10
"""Steps between two checkpoints."""


@dataclass(frozen=True)
class Kill:
    """What is killed with SIGKILL, and when."""

    victim: str
    """command (the launcher that was typed), launcher (the one that started the ranks), rank (any of them), all."""
    moment: str = "training"
    """training, save (its files are being written), start (before the first step)."""


@dataclass
class Outcome:
    """What a job that was killed has shown."""

    steps_lost: list[int] = field(default_factory=list)
    """At each resume."""
    seconds_until_gone: list[float] = field(default_factory=list)
    """Until no process was left, of each kill."""
    inside_save: list[bool] = field(default_factory=list)
    """Whether a checkpoint was being written, at each kill."""
    faults: list[str] = field(default_factory=list)
    """What should not have happened."""


def run_killed(job: Job, kills: Sequence[Kill], whole: Sequence[tuple[int, object]], seed: int) -> Outcome:
    """Start the job and kill it, once for each kill; then let it end, and compare it with the whole run's losses."""
    chance, outcome, reported = random.Random(seed), Outcome(), 0
    for kill in kills:
        start = job.log_size()
        process = job.start()
        outcome.inside_save.append(strike(job, kill, start, chance))
        outcome.seconds_until_gone.append(job.until_gone())
        process.wait()
        if resumed_step(job, start) or last_step(job, start):  # it got so far
            outcome.steps_lost.append(reported - resumed_step(job, start))
        reported = max(job.steps(), default=0)
    start = job.log_size()
    exit_code = job.start().wait(600)
    outcome.steps_lost.append(reported - resumed_step(job, start))
    if exit_code != 0:
        outcome.faults.append(f"the last start ended with {exit_code}: {job.output(start)[-8000:]}")
    if max(outcome.steps_lost) > EVERY:
        outcome.faults.append(f"more than {EVERY} steps lost: {outcome.steps_lost}")
    if job.losses() != list(whole):
        first = next((ours for ours, theirs in zip(job.losses(), whole, strict=False) if ours != theirs), None)
        outcome.faults.append(f"{len(job.losses())} losses for {len(whole)}; the first that differs is {first}")
    return outcome


def strike(job: Job, kill: Kill, start: int, chance: random.Random) -> bool:
    """Wait for the moment, and kill what has started at this byte of the log. True when it was inside a save."""
    began = time.time()

    def saving() -> bool:
        folders = (job.directory / "checkpoints").glob("step-*.tmp")
        return any(folder.stat().st_mtime > began for folder in folders if folder.exists())

    if kill.moment == "start":
        job.until(lambda: len(job.ranks()) == job.n_ranks, "the ranks")
        time.sleep(chance.uniform(0, 6))
    else:
        job.until(lambda: last_step(job, start) or not job.processes(), "a step")
        until = last_step(job, start) + chance.randint(1, EVERY + 2)
        job.until(lambda: last_step(job, start) >= until or not job.processes(), f"step {until}")
        if kill.moment == "save":
            job.until(saving, "a save", pause=0.005)
            time.sleep(chance.uniform(0, 0.02))
    launchers, ranks = job.launchers(), list(job.ranks().values())
    assert ranks, f"{job.name} has ended before it was killed; {job.output(start)[-8000:]}"
    chosen = {"command": launchers[:1], "launcher": launchers[-1:], "rank": [chance.choice(ranks)]}
    for victim in chosen.get(kill.victim, [*launchers, *ranks]):
        victim.kill()
    return saving()


def resumed_step(job: Job, start: int) -> int:
    """The step that the start at this byte of the log says it goes on from; 0 where it began anew."""
    found = re.findall(r"^resumed .*: step (\d+),", job.output(start), re.MULTILINE)
    return int(found[-1]) if found else 0


def last_step(job: Job, start: int) -> int:
    """The last step that the start at this byte of the log has printed; 0 for none."""
    return max(map(int, re.findall(r"^\S+ \S+  step +(\d+)/", job.output(start), re.MULTILINE)), default=0)


CONFIGURATIONS = [
    ("zero2_offload", "deepspeed", 1),
    ("zero2_offload", "deepspeed", 2),
    ("zero3_offload", "deepspeed", 1),
    ("zero3_offload", "deepspeed", 2),
    ("zero2_offload", "torchrun", 2),
]
KILLS = [
    Kill("rank"),
    Kill("all", "save"),
    Kill("launcher", "save"),
    Kill("command"),
    Kill("rank", "save"),
    Kill("all", "start"),
    Kill("launcher"),
    Kill("all"),
]
STEPS = 20 * len(KILLS)


def main() -> int:
    """Every configuration, one after another: a whole run, and one that is killed 8 times."""
    print("| ds_config | launcher | ranks | kills: launcher / rank / all | in a save | losses | steps lost | gone in |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    faults = []
    for seed, (config, launcher, n_ranks) in enumerate(CONFIGURATIONS):
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_configuration(prepare(Path(folder)), config, launcher, n_ranks, seed)
        victims = ["launcher" if kill.victim == "command" else kill.victim for kill in KILLS]
        counts = " / ".join(str(victims.count(victim)) for victim in ("launcher", "rank", "all"))
        losses = "differ" if outcome.faults else "equal"
        gone, lost = max(outcome.seconds_until_gone), max(outcome.steps_lost)
        print(
            f"| {config} | {launcher} | {n_ranks} | {counts} | {sum(outcome.inside_save)} | {losses} | "
            f"at most {lost} of {EVERY} | {gone:.0f} s |",
            flush=True,
        )
        faults += [f"{config}, {launcher}, {n_ranks} ranks: {fault}" for fault in outcome.faults]
    print("", *faults, sep="\n")
    return bool(faults)


def run_configuration(folder: Path, config: str, launcher: str, n_ranks: int, seed: int) -> Outcome:
    """The whole run and the killed one of a ds_config."""
    arguments = ("--max_steps", STEPS, "--checkpoint.every", EVERY, "--ds_config", f"ds_configs/{config}.json")
    whole = Job(folder, "whole", launcher, n_ranks, *arguments)
    assert whole.start().wait(600) == 0, whole.output()[-3000:]
    return run_killed(Job(folder, "killed", launcher, n_ranks, *arguments), KILLS, whole.losses(), seed)


if __name__ == "__main__":
    sys.exit(main())

"""What a run does before its first step, and what its data take of a step: CPU seconds of the process.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/startup.py [--languages 100] [--steps 20] [--config RUN.yaml ...]

`genesis-ds train` with the given flags is begun twice in a new directory, and ended after so many steps: first where
no token set is, then where the first has left it. --languages copies the translations of the corpus, in turn, under so
many codes. CPU seconds are those of all threads, so that other work on the machine counts little; wall time is beside
them.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

ENDS = {
    "imports": "the program is imported",
    "open_run": "the data are open",
    "build": "the engine is built",
    "before_training": "what is measured once is measured",
    "step": "the first step is done",
}
"""A stage -> what has happened at its end."""


class Stages:
    """CPU seconds, and seconds, at the end of each stage; what data take of the steps after the first."""

    def __init__(self, out: Path, n_steps: int) -> None:
        """out: the file that they are written to after so many steps, which end the process."""
        self.out, self.left = out, n_steps
        self.began = time.perf_counter() - time.process_time()  # nothing but importing has been done
        self.ends: dict[str, tuple[float, float]] = {}
        self.steps = self.data = 0.0

    def end(self, stage: str) -> None:
        self.ends.setdefault(stage, (time.process_time(), time.perf_counter() - self.began))
        if stage == "build" and not self.left:
            self.leave()

    def leave(self) -> None:
        self.out.write_text(json.dumps({"ends": self.ends, "data": self.data / self.steps if self.steps else None}))
        os._exit(0)

    def ending(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which ends a stage."""

        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.end(stage)
            return result

        return call

    def timed_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.end("before_training")
            is_first, began = "step" not in self.ends, time.process_time()
            record = step(*arguments)
            self.end("step")
            if is_first:
                self.data = 0.0
            else:
                self.steps += time.process_time() - began
            self.left -= 1
            if not self.left:
                self.leave()
            return record

        return call

    def timed_data(self, batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(*arguments: Any) -> Iterator[Any]:
            remaining = batches(*arguments)
            while True:
                began = time.process_time()
                batch = next(remaining, None)
                self.data += time.process_time() - began
                if batch is None:
                    return
                yield batch

        return call


def worker(out: Path, n_steps: int, argv: list[str]) -> None:
    """Train so many steps in this process, and write when each stage ended."""
    stages = Stages(out, n_steps)
    from genesis_ds.engine.engine import Engine
    from genesis_ds.training import session
    from genesis_ds.training.trainer import Trainer

    stages.end("imports")
    with ExitStack() as patches:
        for of, name, wrapped in (
            (session, "open_run", stages.ending("open_run", session.open_run)),
            (Engine, "build", stages.ending("build", Engine.build)),
            (Trainer, "step", stages.timed_step(Trainer.step)),
            (Trainer, "micro_batches", stages.timed_data(Trainer.micro_batches)),
        ):
            patches.enter_context(mock.patch.object(of, name, wrapped))
        sys.exit(session.main(argv))


def main() -> None:
    from hooks_overhead import in_many_languages

    from genesis_ds.config.parse import OwnFlags, parse_arguments
    from genesis_ds.user_files import dump_yaml

    own = OwnFlags()
    own.add_argument(
        "--steps", type=int, default=20, help="steps that are trained, 2 or more; 0: no more than the engine is built"
    )
    own.add_argument("--languages", type=int, help="copies of the corpus's translations, under codes of their own")
    arguments = parse_arguments(sys.argv[1:], own, "startup", "Measure what a run does before its first step.")
    options, found = arguments.options, []
    with tempfile.TemporaryDirectory() as folder:
        run, place = arguments.run, Path(folder)
        if options.languages:
            run = in_many_languages(run, options.languages, place)
        data = dataclasses.replace(run.data, token_sets=str(place / "token_sets"))
        run = dataclasses.replace(run, data=data, resume="never")
        for n in ("first", "again"):
            config, out = place / f"{n}.yaml", place / f"{n}.json"
            config.write_text(dump_yaml(dataclasses.asdict(dataclasses.replace(run, output_dir=str(place / n)))))
            given = ["--config", str(config), "--ds_config", arguments.ds_config_file]
            command = [sys.executable, __file__, "--worker", str(out), str(options.steps), *given]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found.append(json.loads(out.read_text()))
    print("| CPU seconds (seconds) until | no token set | later |", "|---|---|---|", sep="\n")
    for stage, what in ENDS.items():
        if all(stage in each["ends"] for each in found):
            cells = [f"{cpu:.1f} ({wall:.1f})" for cpu, wall in (each["ends"][stage] for each in found)]
            print(f"| {' | '.join([what, *cells])} |")
    if options.steps:
        print(f"| {' | '.join(['data, share of a step', *(format(each['data'], '.2%') for each in found)])} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        main()

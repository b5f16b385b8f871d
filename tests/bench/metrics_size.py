"""How large metrics.jsonl becomes over a long run, by the real writer, on the names and values of a short one.

    PYTHONPATH=. python tests/bench/metrics_size.py RUN FOLDER [--steps 1000000]

RUN is the directory of a short run with every measure that is wanted, and with as many languages. What its last record
has is written again and again at the default intervals, each measure with noise in all its digits; what does not change
in a run (chance, controls, numbers of trials) stays. Language modelling gets copied, novel and proper words for each
language; numerals and connectives are known of three languages alone.
"""

import argparse
import random
import re
import time
from pathlib import Path

from genesis_ds import metrics
from genesis_ds.config import RunConfig
from genesis_ds.data.strata import STRATA
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.json_lines import JsonLines
from genesis_ds.segments import read_records

RUN = RunConfig()
TASKS = r"coherence|cross_reference|paraphrase"
INTERVALS = {
    rf"(val/\w+|grokking)/({TASKS})/": RUN.evaluation.tasks_every,
    r"memorisation/|ranks/|alignment/.*/(z|low|high)$": 10 * RUN.evaluation.every,
    r"(val|grokking)/": RUN.evaluation.every,
    r"sample/": 1000,
    r"alignment/": RUN.alignment.every,
    r"clustering/": RUN.clustering.every,
    r"trajectory/|health/": RUN.trajectory.every,
    r"memory/\w+_predicted": 10**9,
}
"""How the name of a measure begins -> steps between two values of it; all others come every log_every steps."""
CONSTANT = re.compile(r".*(/n|/chance|/at_step_0|/by_\w+|/by_\w+/.*)$")


def template(run: Path) -> dict[int, dict[str, float | str]]:
    """Return interval -> names and values of a run's last record."""
    [*_, last] = read_records(run / "metrics.jsonl")
    for name, value in list(last.items()):
        if re.fullmatch(r"(val|grokking)/.*/novel(/\w+)?", name):
            last |= {re.sub(r"/novel", f"/{stratum}", name): value for stratum in STRATA[:3]}
    found: dict[int, dict[str, float | str]] = {}
    for name, value in last.items():
        is_notice = isinstance(value, str) and not name.startswith(metrics.sample(""))  # it would be said each time
        if name not in ("global_step", "events") and not is_notice:
            every = next((every for begins, every in INTERVALS.items() if re.match(begins, name)), RUN.log_every)
            found.setdefault(int(every), {})[name] = value
    return found


def noisy(name: str, value: float | str) -> float | str:
    """Return another value of a measure."""
    if isinstance(value, str | int) or CONSTANT.fullmatch(name):
        return value
    return value * random.gauss(1, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    given = parser.parse_args()
    of_interval = template(given.run)
    for every, measures in sorted(of_interval.items()):
        print(f"every {every:>10,} steps: {len(measures):,} measures")
    given.folder.mkdir(parents=True)
    path = given.folder / "metrics.jsonl"
    hook, started, longest = JsonLines(path, 0), time.perf_counter(), 0.0
    for step in range(RUN.log_every, given.steps + 1, RUN.log_every):
        record = StepRecord(step, given.steps)
        for every, measures in of_interval.items():
            if every and step % every == 0:
                for name, value in measures.items():
                    into = record.texts if isinstance(value, str) else record.metrics
                    into[name] = noisy(name, value)
        before = time.perf_counter()
        hook.on_step(record)
        longest = max(longest, time.perf_counter() - before)
    hook.close()
    print(f"written in {time.perf_counter() - started:.0f} s; the longest step took {longest:.1f} s")
    files = list((given.folder / "metrics").iterdir())
    index = [file for file in files if ".index." in file.name]
    total = path.stat().st_size + sum(file.stat().st_size for file in files)
    print(f"{total / 1e6:.1f} MB, {sum(file.stat().st_size for file in index) / 1e6:.1f} MB of them the index")
    for decimated in (True, False):
        started = time.perf_counter()
        n = sum(1 for _ in read_records(path, decimated))
        print(f"{'index' if decimated else 'whole'}: {n:,} records read in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()

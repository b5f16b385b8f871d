"""What only a GPU can show, in one command of minutes: python tests/gpu/measure.py --out tests/gpu/results/CARD.json

quickstart    the quickstart command itself, and whether a run that was resumed is the run that nobody stopped
attention     the kernel that runs and its error against fp32 math, for each backend, on whole rows and packed verses
frontier_1b   predicted against measured memory, speed and kernel launches, on a 12 GB desktop card
losses        whether compiled blocks train as eager ones, and CUDA graphs too
compile       the everyday model with its blocks eager, compiled, and compiled to recompute less: speed and kernels
plain_loop    tokens a second beside a plain PyTorch loop on the same text and model
ds_configs    the other shipped ds_configs on rtx4070_optimal, predicted against measured
frontier_2b   the largest shipped model, on a 12 GB desktop card, with fp32 masters and with bf16 ones
recomputed    the everyday model, by what its eager blocks compute again, with the loss in chunks, and as CUDA graphs
largest       the largest model that the plan says fits, and one 5 % larger: the first must hold, the second must not
nvme          zero3_nvme on rtx4070_optimal, where libaio is there

Every run is a process of its own with its own limit of time, and the JSON is written again after each. What there was
no time for is listed in it with its command. --table FILE.json prints what was found as Markdown. --toy runs tiny
models without a limit of memory, on a CPU as well: it shows that the harness works, and nothing about a GPU.

The 12 GB card is stood for by a limit on torch's allocator and a ballast (`genesis-ds bench --vram_cap`), its 64 GB of
host memory by killing what takes more than the plan may use of them. Speeds are those of the card that is there.
"""

import argparse
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import resume
from machine import describe_machine
from recording import ROOT, Command, Record, Row, last_lines
from table import format_tables

from genesis_ds.memory.machine.hardware import find_hardware
from genesis_ds.segments import read_records


@dataclass(frozen=True)
class Share:
    """Seconds of a run: expected (it is left out where fewer are left), the most it may take, of measured steps."""

    expects: float
    limit: float
    measures: float = 0


SHARES = {
    "build": Share(45, 240),
    "corpus": Share(5, 60),
    "quickstart": Share(60, 120),
    "resume": Share(50, 100),  # each of three starts
    "attention": Share(10, 60),
    "frontier_1b": Share(60, 120, measures=10),
    "losses": Share(50, 100),  # each of three starts
    "compile": Share(45, 90, measures=4),  # each of three
    "plain_loop": Share(75, 120, measures=3),  # each of two
    "ds_configs": Share(35, 80, measures=5),  # each of four
    "frontier_2b": Share(80, 150, measures=10),  # each of three
    "recomputed": Share(45, 90, measures=4),  # each of five
    "largest": Share(75, 150, measures=5),  # each of two
    "nvme": Share(60, 240, measures=5),  # the build, and the run
}
"""What an H200 with 16 cores took; NVMe's is derived. The limits grow with --minutes."""
MINUTES = 14
MARK = "made_by_measure.py"
"""A file in the directory of the runs, which may be emptied for the next ones."""

PARTS = (
    "quickstart",
    "attention",
    "frontier_1b",
    "compile",
    "losses",
    "plain_loop",
    "ds_configs",
    "frontier_2b",
    "largest",
    "recomputed",
    "nvme",
)
CARD = "rtx4070"
"""The machine that is stood for."""
CAP = "11.2GiB"
"""What a desktop leaves of its card's 12 GiB, the CUDA context included."""
QUICKSTART = "ds_configs/zero3_offload.json"
FRONTIER = "ds_configs/zero2_offload.json"
SIZES = ["--batch.micro_batch_size", "2", "--batch.global_batch_size", "4"]
"""Of the large models: two micro-steps, so that gradients accumulate."""
TOY = ["--model.preset", "tower_144_tiny", "--model.n_layers", "4", "--batch.seq_len", "64", *SIZES]
QUICKSTART_STEPS = 100
RESUME_STEPS = 24
TOY_STEPS = 4
BRIEFLY = ["--evaluation.every", "0", "--evaluation.max_windows", "4", "--evaluation.max_verses", "32"]
BRIEFLY += ["--samples.new_tokens", "4"]
"""What a short training measures besides, at its end."""


class Protocol:
    """The parts, in their order."""

    def __init__(self, record: Record, toy: bool, work: Path) -> None:
        """work: the directory that the runs are put in."""
        self.record, self.toy, self.work = record, toy, work
        self.of_corpus: list[str] = []
        """What names the corpus to a command; nothing where it is the runs' own."""
        self.search: subprocess.Popen[str] | None = None
        """For the plan's largest model: half a minute of one processor, while the first parts run."""

    def run(self, parts: list[str]) -> None:
        """Prepare what the parts need, and run them."""
        if "largest" in parts and not self.toy:
            words = ["memory", "--config", "launch/runs/frontier_1b.yaml", "--ds_config", FRONTIER, *SIZES]
            self.search = self.record.start(cli(*words, "--hardware", CARD, "--fit", "layers"))
        if parts != ["attention"]:
            self.command("build", "cpu_adam", cli("build", "cpu_adam"))
            self.find_corpus()
        for part in parts:
            try:
                getattr(self, f"part_{part}")()
            except Exception as error:  # the other parts still have their time
                traceback.print_exc()
                self.record.content["problems"].append(f"{part}: {type(error).__name__}: {error}")

    def find_corpus(self) -> None:
        """The runs' own, where it has been fetched; otherwise an invented one, as there may be no network."""
        if self.toy or not (ROOT / "corpora/bible").exists():
            corpus, token_sets = (self.path(name) for name in ("corpus", "token_sets"))
            self.command("corpus", "synthetic", cli("corpus", "synthetic", "--output", corpus))
            self.of_corpus = ["--data.corpus", corpus, "--data.languages", "[]", "--data.token_sets", token_sets]

    def part_quickstart(self) -> None:
        """The command that the README begins with, and its resume."""
        of_quickstart = self.steps(TOY_STEPS) if self.toy else ["--max_steps", str(QUICKSTART_STEPS)]
        self.train("quickstart", "quickstart", "quickstart", of_quickstart)
        steps = TOY_STEPS if self.toy else RESUME_STEPS
        sizes = [*self.steps(steps), "--checkpoint.every", str(steps // 2), "--log_every", "1"]
        places = ("whole", "resumed", "resumed_again")
        whole, *others = runs = [self.work / place / "quickstart" for place in places]
        row = self.train("resume", "whole", "whole", sizes)
        for run in others:
            if row is None or not row["ok"]:
                return
            resume.rewound(whole, steps // 2, run)
            row = self.train("resume", run.parent.name, run.parent.name, sizes)
        if row and row["ok"]:
            row |= resume.compare(*runs, steps // 2)
            self.record.write()

    def part_attention(self) -> None:
        """Kernels and their errors."""
        words = ["python", "tests/gpu/attention.py", *(["--seq_len", "64"] if self.toy else [])]
        self.command("attention", "kernels", words, has_result=True)

    def part_frontier_1b(self) -> None:
        """1B parameters on the card that is stood for."""
        sizes = SIZES if self.toy else [*SIZES, "--profile"]
        self.bench("frontier_1b", "frontier_1b", run="frontier_1b", sizes=sizes)

    def part_compile(self) -> None:
        """The everyday model of a 12 GB card: its blocks as they are, compiled, and compiled to recompute less."""
        of_blocks = {
            "eager": ["--compile.when", "never"],
            "compiled": [],
            "compiled, budget 0.1": [
                *("--activation_checkpointing.mode", "none"),
                *("--compile.activation_memory_budget", "0.1"),
            ],
        }
        for name, words in of_blocks.items():
            sizes = ["--batch.global_batch_size", "8", *words, *([] if self.toy else ["--profile"])]
            self.bench("compile", name, run="rtx4070_optimal", sizes=sizes, ds_config="ds_configs/zero2.json")

    def part_losses(self) -> None:
        """The first losses of the quickstart with compiled blocks, beside those with eager ones."""
        of_blocks = {
            "eager": ["--compile.when", "never"],
            "compiled": ["--compile.when", "always"],
            "CUDA graphs": ["--compile.when", "always", "--compile.mode", "reduce-overhead"],
        }
        eager: dict[int, float] = {}
        for name, words in of_blocks.items():
            place = f"losses_{name.replace(' ', '_')}"
            steps = self.steps(TOY_STEPS if self.toy else RESUME_STEPS)
            row = self.train("losses", name, place, [*steps, "--log_every", "1", *words])
            if row and row["ok"]:
                found = resume.losses(self.work / place / "quickstart", 0)
                eager = eager or found
                row["largest_loss_difference"] = max(abs(found[step] - eager[step]) / eager[step] for step in found)
                self.record.write()

    def part_plain_loop(self) -> None:
        """Our engine beside a plain loop, on a model that a 12 GB card holds without offload."""
        words = ["--config", "launch/runs/rtx4070_optimal.yaml", *self.of_corpus]
        words += ["--activation_checkpointing.mode", "none", "--warm_up", "3", "--rounds", "1" if self.toy else "2"]
        if self.toy:
            words += ["--steps", "1", *TOY]
        else:
            words += ["--steps", "200", "--max_seconds", str(SHARES["plain_loop"].measures), "--batch.seq_len", "512"]
            words += ["--batch.micro_batch_size", "4", "--batch.global_batch_size", "16"]
        for name in ("zero2", "zero2_offload"):
            of_name = cli("bench", "--against", "plain", "--ds_config", f"ds_configs/{name}.json", *words)
            self.command("plain_loop", name, of_name, has_result=True)

    def part_ds_configs(self) -> None:
        """Those that no other part runs, NVMe apart."""
        for name in ("zero2", "zero3", "zero3_offload"):
            self.on_optimal("ds_configs", name)

    def part_nvme(self) -> None:
        """The last of them; it needs libaio, and an operation that takes minutes to build."""
        row = self.command("nvme", "build async_io", cli("build", "async_io"), optional="async_io")
        if row and row["ok"]:
            self.on_optimal("nvme", "zero3_nvme")

    def on_optimal(self, part: str, name: str) -> None:
        """A ds_config with the everyday model of a 12 GB card."""
        sizes = ["--batch.global_batch_size", "8"]
        self.bench(part, name, run="rtx4070_optimal", sizes=sizes, ds_config=f"ds_configs/{name}.json")

    def part_frontier_2b(self) -> None:
        """2B parameters on the card that is stood for, with each way to keep its optimizer on the host."""
        self.bench("frontier_2b", "frontier_2b", run="frontier_2b", sizes=SIZES)
        for name in ("zero2_offload_bf16", "zero3_offload_bf16"):
            self.bench("frontier_2b", name, run="frontier_2b", sizes=SIZES, ds_config=f"ds_configs/{name}.json")

    def part_recomputed(self) -> None:
        """The everyday model, by what its blocks compute again, with a large vocabulary's loss in chunks or at once."""
        eager, mode = ["--compile.when", "never"], "--activation_checkpointing.mode"
        vocabulary = [*eager, mode, "block", "--model.vocab_size", "32768"]
        ways = {
            "swiglu": [*eager, mode, "swiglu"],
            "elementwise": [*eager, mode, "elementwise"],
            "32k words": vocabulary,
            "32k words, loss in chunks": [*vocabulary, "--activation_checkpointing.loss_chunk", "512"],
            "CUDA graphs": ["--compile.mode", "reduce-overhead"],
        }
        for name, words in ways.items():
            sizes = ["--batch.global_batch_size", "8", *words]
            self.bench("recomputed", name, run="rtx4070_optimal", sizes=sizes, ds_config="ds_configs/zero2.json")

    def part_largest(self) -> None:
        """The plan's largest model, and a larger one."""
        largest = 4
        if self.search:
            output, _ = self.search.communicate(timeout=max(1, self.record.left))
            found = re.match(r"largest that fits .*: (\d+) layers", output)
            if not found:
                raise RuntimeError(f"no largest model was found: {last_lines(output)[-1]}")
            largest = int(found[1])
        for n_layers, should_hold in ((largest, True), (-(-largest * 21 // 20), False)):
            sizes = [*SIZES, "--model.n_layers", str(n_layers)]
            row = self.bench("largest", f"{n_layers} layers", run="frontier_1b", sizes=sizes)
            if row:
                holds = None if row["killed_for"] == "time" else row["ok"]
                row |= {"n_layers": n_layers, "should_hold": should_hold or self.toy, "holds": holds}
                self.record.write()

    def bench(self, part: str, name: str, *, run: str, sizes: list[str], ds_config: str = FRONTIER) -> Row | None:
        """One `genesis-ds bench`, on the card that is stood for."""
        words = cli("bench", "--config", f"launch/runs/{run}.yaml", "--ds_config", ds_config, "--warm_up", "2")
        words += ["--steps", "50", "--max_seconds", str(0.5 if self.toy else SHARES[part].measures)]
        words += ["--memory.enforce", "false"]
        words += [*TOY, *sizes] if self.toy else ["--vram_cap", CAP, *sizes]
        return self.command(part, name, words, has_result=True, capped=not self.toy)

    def train(self, part: str, name: str, place: str, sizes: list[str]) -> Row | None:
        """The quickstart's training command, with the runs in a place of their own."""
        output = self.work / place
        words = ["deepspeed", "launch/train.py", "--ds_config", QUICKSTART, "--output_dir", self.path(place)]
        row = self.command(part, name, [*words, *self.of_corpus, *sizes])
        if row:
            records = read_records(output / "quickstart/metrics.jsonl")
            latest: Row = {}
            for record in records:
                latest |= {key: value for key, value in record.items() if isinstance(value, int | float)}
            row |= {"corpus": "synthetic" if self.of_corpus else "corpora/bible", "metrics": latest}
            self.record.write()
        return row

    def steps(self, n: int) -> list[str]:
        """A training of so many steps."""
        return ["--max_steps", str(n), *BRIEFLY, *(["--model.n_layers", "2"] if self.toy else [])]

    def command(
        self,
        part: str,
        name: str,
        words: list[str],
        *,
        has_result: bool = False,
        capped: bool = False,
        optional: str = "",
    ) -> Row | None:
        """Run a command with the share of its part."""
        share = SHARES[part]
        result = self.work / f"{part}-{name.replace(' ', '_')}.json" if has_result else None
        words = [*words, "--json", self.path(result.name)] if result else words
        limit = share.limit * max(1, self.record.content["minutes"] / MINUTES)
        host_limit = find_hardware(CARD).usable_host_bytes if capped else None
        return self.record.run(Command(part, name, words, share.expects, limit, result, host_limit, optional))

    def path(self, name: str) -> str:
        """Of something in the work directory, as a command names it."""
        path = self.work / name
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def cli(*words: str) -> list[str]:
    """The `genesis-ds` command, which is there without being installed."""
    return ["python", "-m", "genesis_ds", *words]


def make_empty(work: Path) -> None:
    """A new directory for the runs, in the place of an earlier one that this program has made."""
    if work.exists() and not (work / MARK).exists():
        sys.exit(f"error: --work: {work} is not a directory of this program's; name one that does not exist")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="run the protocol, and write this JSON file")
    what.add_argument("--table", type=Path, help="print this JSON file as Markdown")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the whole of it ends by then (default 14)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[], metavar="PART", help="leave these out")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/gpu", help="a directory for the runs, emptied before")
    parser.add_argument("--toy", action="store_true", help="tiny models, on a CPU as well; nothing about a GPU")
    options = parser.parse_args()
    if options.table:
        try:
            print(format_tables(json.loads(options.table.read_text())))
        except (OSError, ValueError, LookupError, TypeError) as error:
            parser.error(f"--table: {options.table} is not a JSON file of this program's: {error!r}")
        return
    parts = [part for part in options.parts if part not in options.without]
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes: {options.minutes} is not allowed; give a number above 0")
    if not parts:
        parser.error("--without leaves nothing to run")
    if not options.toy and not torch.cuda.is_available():
        sys.exit("error: no CUDA device here; --toy shows on a CPU that the harness works")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.open("a").close()
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written: {error.strerror}")
    make_empty(options.work)
    head = {"toy": options.toy, "stands_for": None if options.toy else f"{CARD} within {CAP}"}
    record = Record(options.out, head, options.minutes, {"OMP_NUM_THREADS": "1"} if options.toy else {})
    record.content["machine"] = describe_machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of `finally`, so that what runs ends as well
    try:
        Protocol(record, options.toy, options.work.resolve()).run(parts)
    except KeyboardInterrupt:
        record.content["problems"].append("interrupted: the parts that follow were not begun")
        print(f"interrupted; {options.out} has what was measured until then", file=sys.stderr)
        sys.exit(130)
    finally:
        record.close()
    content = record.content
    print(
        f"{options.out}: {content['seconds']:.0f} s, {len(content['left_out'])} left out",
        *content["problems"],
        sep="\n",
    )
    sys.exit(bool(content["problems"]))


if __name__ == "__main__":
    main()

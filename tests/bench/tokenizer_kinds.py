"""What bytes, characters and byte pairs cost and reach: one small model on each, in English, Spanish, Korean, Hindi.

    PYTHONPATH=. OMP_NUM_THREADS=1 nice -n 19 python tests/bench/tokenizer_kinds.py FOLDER

Fetches the four languages, trains the two tokenizers, trains a model of 4 layers on each for STEPS steps with one seed,
about 5 CPU-minutes a run, and prints the table of docs/text.md. Everything is in FOLDER; a second call goes on with
what is not there yet. Time is that of the CPU, which other processes on the machine change less than the clock.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.tokenizer import open_tokenizer

LANGUAGES = ["en", "es", "ko", "hi"]
STEPS, EVERY, WARM_UP = 400, 50, 20
ROWS, SEQ_LEN = 8, 256
MODEL = {"n_layers": 4, "dim": 96, "n_heads": 3, "intermediate_size": 256}
OFF = ("alignment", "clustering", "trajectory", "samples")


def command(*words: object) -> float:
    """Run a command of genesis-ds and return the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "genesis_ds", *map(str, words)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def recipe(folder: Path, model_type: str) -> Path:
    """Write the recipe of a tokenizer of the four languages and return its path."""
    path = folder / f"{model_type}.yaml"
    settings = {"name": model_type, "model_type": model_type, "vocab_size": 8192, "languages": LANGUAGES}
    path.write_text(json.dumps(settings | {"corpus": str(folder / "corpus"), "output": str(model(folder, model_type))}))
    return path


def model(folder: Path, kind: str) -> Path | None:
    return None if kind == "bytes" else folder / f"{kind}.model"


def train(folder: Path, kind: str) -> float:
    """Train the run of a tokenizer, from its last checkpoint if it has one; return the CPU seconds of a step."""
    timed = folder / f"{kind}.json"
    if timed.exists():
        return json.loads(timed.read_text())["step_seconds"]
    path = model(folder, kind)
    flags = [f"--model.{key}={value}" for key, value in MODEL.items()]
    flags += [f"--{section}.every=0" for section in OFF]
    flags += ["--tokenizer.kind", kind, *(["--tokenizer.path", path] if path else [])]
    flags += ["--output_dir", folder, "--data.corpus", folder / "corpus", "--data.token_sets", folder / "token_sets"]
    flags += ["--tasks.lm", 1, "--grokking.rule", "none", "--evaluation.strata", "false"]
    flags += ["--evaluation.memorisation_verses", 0, "--evaluation.max_windows", 64, "--log_every", EVERY]
    flags += ["--batch.seq_len", SEQ_LEN, "--batch.global_batch_size", ROWS, "--batch.micro_batch_size", ROWS]
    flags += ["--optimizer.lr", "3e-3", "--schedule.warmup_steps", 50, "--ds_config", "ds_configs/zero2.json"]
    settings = ["--config", "launch/runs/quickstart.yaml", "--data.languages", "[]", *flags]
    without = command("train", *settings, "--name", f"{kind}_start", "--max_steps", WARM_UP, "--evaluation.every", 0)
    whole = command("train", *settings, "--name", kind, "--max_steps", STEPS, "--evaluation.every", EVERY)
    step_seconds = (whole - without) / (STEPS - WARM_UP)
    timed.write_text(json.dumps({"step_seconds": step_seconds}))
    return step_seconds


def bits_per_byte(folder: Path, kind: str) -> dict[int, dict[str, float]]:
    """Return {step: {language: bits per byte on val_chapter}} of a finished run."""
    lines = [json.loads(line) for line in (folder / kind / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for line in lines:
        values = {language: line.get(f"val/val_chapter/{language}/bits_per_byte") for language in LANGUAGES}
        if None not in values.values():
            found[line["global_step"]] = values
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    if not (folder / "corpus").exists():
        command("corpus", "fetch", "--languages", ",".join(LANGUAGES), "--output", folder / "corpus")
    for model_type in ("char", "bpe"):
        if not (folder / f"{model_type}.model").exists():
            command("tokenizer", "train", recipe(folder, model_type))
    corpus = load_corpus(folder / "corpus")
    in_train = set(split_verses(corpus).ids("train").tolist())
    steps = {kind: train(folder, kind) for kind in ("bytes", "char", "bpe")}
    least = min(STEPS * seconds for seconds in steps.values())
    for kind, seconds in steps.items():
        tokenizer, curve = open_tokenizer(model(folder, kind)), bits_per_byte(folder, kind)
        n_tokens, per_verse = 0, {}
        for translation in corpus.translations:
            lengths = [len(ids) for ids in tokenizer.encode_many(translation.texts)]
            per_verse[translation.language] = sum(lengths) / translation.present.sum()
            verses = zip(translation.verse_ids.tolist(), lengths, strict=True)
            n_tokens += sum(length for verse, length in verses if verse in in_train)
        epoch = n_tokens / (ROWS * SEQ_LEN) * seconds
        at_equal_time = max(step for step in curve if step * seconds <= least * 1.01)
        print(f"{kind}: vocabulary {tokenizer.vocab_size:,}, {seconds:.3f} s a step, {epoch / 60:.0f} minutes an epoch")
        print("  tokens a verse ", {language: round(float(value), 1) for language, value in per_verse.items()})
        for step in sorted({STEPS, at_equal_time}):
            values = {language: round(value, 3) for language, value in curve[step].items()}
            print(f"  bits a byte after {step} steps, {step * seconds:.0f} s", values)


if __name__ == "__main__":
    main()

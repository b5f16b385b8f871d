"""What a trained run knows of the verse tasks on validation text: 95 % intervals, beside what needs no training.

    python launch/train.py --ds_config DS.json --config RUN.yaml --name NAME
    PYTHONPATH=. python tests/bench/verse_tasks.py --ds_config DS.json --config RUN.yaml --name NAME [--out FILE.json]

The run's newest checkpoint is judged as the trainer judges it (genesis_ds/tasks), on evaluation.max_verses
verses per split and task. Intervals are percentiles of 10,000 bootstrap resamples of the trials. Chance, n-grams,
lengths and links are as the trainer has them. --all looks for a paraphrase among all verses asked for, not 64.
--controls judges no model, and tells how wide the controls' intervals are, by Wilson and over chapters.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.analysis.resampling import chapter_counts, interval, wilson
from genesis_ds.checkpoint.load.resume import load_checkpoint
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.tasks.coherence import PairAccuracy
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tasks.retrieval import RetrievalRanks
from genesis_ds.tasks.verse_evaluation import Answer, VerseEvaluation
from genesis_ds.training.open_run import OpenRun, open_run
from genesis_ds.training.preparation import prepare_operations, resolve_ds_config

RESAMPLES = 10_000
BESIDE = {
    "chance": metrics.CHANCE,
    "n-grams": metrics.by_surface("", metrics.BY_NGRAMS),
    "length": metrics.by_surface("", metrics.BY_LENGTH),
    "links": metrics.BY_LINKS,
}
"""Column -> the end of its metric's name."""


def main() -> None:
    own = OwnFlags()
    own.add_argument("--out", help="write the figures to this file")
    own.add_argument("--all", action="store_true", help="look for paraphrases among all verses asked for")
    own.add_argument("--controls", action="store_true", help="judge no model")
    arguments = parse_arguments(sys.argv[1:], own, "verse_tasks", "Judge a run's verse tasks.")
    options, ranks = arguments.options, Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    opened = open_run(arguments.run, resolve_ds_config(arguments, ranks), ranks)
    context = dataclasses.replace(opened.tasks.context, curves_of=None)
    found = [task.evaluation(context) for task in opened.tasks.tasks.values()]
    evaluations = [evaluation for evaluation in found if isinstance(evaluation, VerseEvaluation)]
    if options.all:
        evaluations = [among_all(evaluation) for evaluation in evaluations]
    if options.controls:
        for evaluation in evaluations:
            print(*control_lines(evaluation), sep="\n", flush=True)
        return
    controls = {name: value for evaluation in evaluations for name, value in evaluation.on_surface().items()}
    rows = [row_of(answer, controls) for answer in judge(opened, evaluations, ranks)]
    print(f"{'measure':<56}{'value':>8}{'95 % interval':>18}" + "".join(f"{name:>9}" for name in BESIDE) + f"{'n':>7}")
    for row in rows:
        low, high = row["interval"]
        beside = "".join(f"{row[name]:>9.4f}" if name in row else f"{'-':>9}" for name in BESIDE)
        print(f"{row['metric']:<56}{row['value']:>8.4f}{f'{low:.4f} - {high:.4f}':>18}{beside}{row['n']:>7,}")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    distributed.leave()


def judge(opened: OpenRun, evaluations: list[VerseEvaluation], ranks: Ranks) -> list[Answer]:
    """What the run's newest checkpoint answers on validation splits."""
    if opened.resumed_from is None:
        raise UserError(f"{opened.directory.path}: no checkpoint; train the run first")
    prepare_operations(opened.run.ds_config)
    engine = Engine.build(opened.run, ranks=ranks, device=distributed.device(ranks))
    load_checkpoint(engine, opened.resumed_from.path, ranks)
    calls = ModelCalls(engine.output, ranks, engine.device)
    with engine.evaluating():
        judgements = [judgement for evaluation in evaluations for judgement in evaluation.judge(calls)]
    return [answer for judgement in judgements for answer in judgement.answers]


def control_lines(evaluation: VerseEvaluation) -> Iterator[str]:
    """What needs no model: its value, how far the ends of the trainer's interval and of one over chapters lie apart."""
    for surface, trials in evaluation.guess(evaluation.tokenizer):
        for metric, values in trials.items():
            low, high = wilson(values.mean(), len(values))
            line = f"{metrics.by_surface(metric, surface):<66}{values.mean():>8.4f}  Wilson {high - low:.3f}"
            if (chapters := chapters_of(evaluation, metric)) is not None:
                counts = chapter_counts(chapters)
                low, high = interval(counts @ values / counts.sum(1))
                line += f"  {len(np.unique(chapters))} chapters {high - low:.3f}"
            yield f"{line}  n {len(values)}"


def chapters_of(evaluation: VerseEvaluation, metric: str) -> NDArray[np.int64] | None:
    """The chapter of each trial: of a pair's first verse, or of the verse that asks; None for a kind of pairs."""
    if isinstance(evaluation, RetrievalRanks):
        question = next(each for each in evaluation.questions if metric.startswith(f"{each.name}/"))
        return question.packer.verses.verse_ids[np.unique(question.retrieval.queries)] // 1000
    if isinstance(evaluation, PairAccuracy) and metric.endswith("/accuracy"):
        packer, examples = evaluation.pairs[metric.split("/")[1]]
        return packer.verses.verse_ids[examples.verses[:, 0]] // 1000
    return None


def row_of(answer: Answer, controls: dict[str, float]) -> dict[str, Any]:
    """The measure with its interval and what stands beside it."""
    random, trials = np.random.default_rng(0), answer.trials.astype(float)
    means = [random.choice(trials, len(trials)).mean() for _ in range(RESAMPLES)]
    named = {answer.metric + suffix: value for suffix, value in answer.beside.items()} | controls
    beside = {name: named[answer.metric + suffix] for name, suffix in BESIDE.items() if answer.metric + suffix in named}
    interval = np.percentile(means, [2.5, 97.5]).tolist()
    return {"metric": answer.metric, "value": trials.mean(), "interval": interval, "n": len(trials)} | beside


def among_all(evaluation: VerseEvaluation) -> VerseEvaluation:
    """The evaluation, a paraphrase looked for among all verses that are asked for in its language."""
    if isinstance(evaluation, RetrievalRanks):
        evaluation.questions = [
            dataclasses.replace(
                question,
                retrieval=dataclasses.replace(
                    question.retrieval, candidates=[question.retrieval.targets] * len(question.retrieval.targets)
                ),
            )
            if question.task == Paraphrase.name
            else question
            for question in evaluation.questions
        ]
    return evaluation


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

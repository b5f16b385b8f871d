"""What a trained run knows of the verse tasks on validation text: 95 % intervals, beside chance and lengths alone.

    python launch/train.py --ds_config DS.json --config RUN.yaml --name NAME
    PYTHONPATH=. python tests/bench/verse_tasks.py --ds_config DS.json --config RUN.yaml --name NAME [--out FILE.json]

The run's newest checkpoint is judged as the trainer judges it (genesis_ds/tasks), on evaluation.max_verses
verses per split and task. Intervals are percentiles of 10,000 bootstrap resamples of the trials. The length-only
baselines: a logistic regression on the two lengths of a pair, fitted on training verses; candidates ranked by how well
their length fits the query's.
"""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from genesis_ds import metrics
from genesis_ds.checkpoint.load.resume import load_checkpoint
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import Engine
from genesis_ds.errors import UserError
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.tasks.coherence import Coherence, PairAccuracy
from genesis_ds.tasks.retrieval import Question, RetrievalRanks
from genesis_ds.tasks.verse_evaluation import VerseEvaluation
from genesis_ds.tasks.verse_task import Examples
from genesis_ds.training.open_run import open_run
from genesis_ds.training.preparation import prepare_operations, resolve_ds_config
from genesis_ds.training.tasks import RunTasks

RESAMPLES = 10_000
LENGTH = "/by_length"


def main() -> None:
    own = OwnFlags()
    own.add_argument("--out", help="write the figures to this file")
    arguments = parse_arguments(sys.argv[1:], own, "verse_tasks", "Judge a run's verse tasks.")
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    rows = judge(arguments, ranks)
    print(f"{'measure':<56}{'value':>8}{'95 % interval':>18}{'chance':>9}{'length':>9}{'links':>9}{'n':>7}")
    for row in rows:
        low, high = row["interval"]
        columns = (row["chance"], row["length"], row["links"])
        beside = "".join(f"{'-' if value is None else f'{value:.4f}':>9}" for value in columns)
        print(f"{row['metric']:<56}{row['value']:>8.4f}{f'{low:.4f} - {high:.4f}':>18}{beside}{row['n']:>7,}")
    if arguments.options.out:
        Path(arguments.options.out).write_text(json.dumps(rows, indent=1) + "\n")
    distributed.leave()


def judge(arguments: Arguments, ranks: Ranks) -> list[dict[str, Any]]:
    resolved = resolve_ds_config(arguments, ranks)
    opened = open_run(arguments.run, resolved, ranks)
    if opened.resumed_from is None:
        raise UserError(f"{opened.directory.path}: no checkpoint; train the run first")
    prepare_operations(resolved)
    engine = Engine.build(opened.run, ranks=ranks, device=distributed.device(ranks))
    load_checkpoint(engine, opened.resumed_from.path, ranks)
    calls = ModelCalls(engine.output, ranks, engine.device)
    evaluations = verse_evaluations(opened.tasks)
    lengths = by_length(evaluations, opened.tasks)
    random = np.random.default_rng(0)
    with engine.evaluating():
        judgements = [judgement for evaluation in evaluations for judgement in evaluation.judge(calls)]
    rows = []
    for answer in (answer for judgement in judgements for answer in judgement.answers):
        trials = answer.trials.astype(float)
        means = [random.choice(trials, len(trials)).mean() for _ in range(RESAMPLES)]
        rows.append(
            {
                "metric": answer.metric,
                "value": trials.mean(),
                "interval": np.percentile(means, [2.5, 97.5]).tolist(),
                "chance": answer.beside[metrics.CHANCE],
                "length": lengths.get(answer.metric),
                "links": answer.beside.get(metrics.BY_LINKS),
                "n": len(trials),
            }
        )
    return rows


def verse_evaluations(tasks: RunTasks) -> list[VerseEvaluation]:
    """What judges the tasks on verses, on validation splits alone."""
    context = dataclasses.replace(tasks.context, curves_of=None)
    found = (task.evaluation(context) for task in tasks.tasks.values())
    return [evaluation for evaluation in found if isinstance(evaluation, VerseEvaluation)]


def by_length(evaluations: list[VerseEvaluation], tasks: RunTasks) -> dict[str, float]:
    """Metric -> what it is by the lengths of the verses alone."""
    context = tasks.context
    train = context.verses("train")
    task = Coherence(train, context.seq_len, context.rows_per_pack, context.seed)
    weights = logistic_regression(*pair_features(task.draw("length", 20_000), train))
    found = {}
    of_pairs = (evaluation for evaluation in evaluations if isinstance(evaluation, PairAccuracy))
    for split, (packer, examples) in (pairs for evaluation in of_pairs for pairs in evaluation.pairs.items()):
        features, follows = pair_features(examples, packer.verses)
        found[metrics.judged(split, "coherence", "accuracy")] = float(((features @ weights > 0) == follows).mean())
    retrievals = (evaluation for evaluation in evaluations if isinstance(evaluation, RetrievalRanks))
    for question in (question for evaluation in retrievals for question in evaluation.questions):
        ranks = question.retrieval.ranks_by(partial(length_fits, question))
        for name, measure in question.measures.items():
            found[f"{question.name}/{name}"] = float(measure(ranks).mean())
    return found


def pair_features(examples: Examples, verses: VerseTable) -> tuple[NDArray, NDArray]:
    """[n, 6] of the logarithms of a pair's lengths, their products and their distance; and which pairs follow."""
    a, b = np.log(verses.lengths[examples.verses]).T
    return np.stack([np.ones_like(a), a, b, a * b, a * a + b * b, np.abs(a - b)], axis=1), examples.kinds == 0


def logistic_regression(features: NDArray, labels: NDArray) -> NDArray:
    """Weights of the maximum likelihood."""
    signs = np.where(labels, 1.0, -1.0)
    loss = minimize(lambda w: np.logaddexp(0, -signs * (features @ w)).mean(), np.zeros(features.shape[1]))
    return loss.x


def length_fits(question: Question, query: np.int64, others: NDArray[np.int64]) -> NDArray:
    """Minus the distance of the logarithms of the lengths, each less the mean of its language."""
    verses = question.packer.verses
    logs = np.log(verses.lengths)
    means = np.array([logs[verses.languages == language].mean() for language in range(len(verses.labels))])
    centred = logs - means[verses.languages]
    return -np.abs(centred[others] - centred[query])


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

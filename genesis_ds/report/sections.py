"""What a report shows of runs, section by section."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from genesis_ds import metrics
from genesis_ds.report.charts import (
    NO_CONTROLS,
    Chart,
    HeatMap,
    Line,
    Mark,
    Members,
    Style,
    chart_of,
    of_runs,
    with_averages,
)
from genesis_ds.report.run_record import RunRecord, Series, mean

MOST_CURVES = 24
"""Curves watched for grokking, and other measures, that are drawn; those with events come first."""
MOST_PAIRS = 6
"""Pairs of languages that have a heat map of their own; of more, the mean is shown."""
GROKKING = re.compile(r"grokking/(?P<curve>.+)/(?P<measure>train_loss|val_loss|train_accuracy|val_accuracy)")
LAYER_NORM = re.compile(rf"(?P<norm>{metrics.LAYER_GRADIENT}|{metrics.LAYER_UPDATE})/layer_(?P<depth>\d+)")
KNOWN = re.compile(
    "(train|val|optim|perf|memory|compile|trajectory|health|ranks|progress|alignment|clustering|memorisation|grokking)/"
)
"""How the names of our own measures begin; any other is of a user's hook."""


@dataclass(frozen=True)
class Section:
    """A part of the report with its charts."""

    key: str
    title: str
    charts: list[Chart] = field(default_factory=list)
    maps: list[HeatMap] = field(default_factory=list)


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Return the sections of which the runs have something."""
    found = [
        Section("loss", "Loss", _some(_validation(runs), _training(runs), *_arithmetic(runs))),
        Section("grokking", "Curves watched for grokking", _some(*_grokking(runs))),
        Section("tasks", "Tasks", _tasks(runs)),
        Section("depth", "Alignment and transfer, by depth", maps=_maps(runs)),
        Section("memorisation", "Known by heart", _some(*_memorisation(runs))),
        Section("optimisation", "Learning rate, norms and gradients", _some(*_optimisation(runs)), _norms(runs)),
        Section("speed", "Speed and memory", _some(*_speed(runs))),
        Section("other", "Other measures", _some(_others(runs))),
    ]
    return [section for section in found if section.charts or section.maps]


def _some(*charts: Chart | None) -> list[Chart]:
    return [chart for chart in charts if chart]


def marks(run: RunRecord, is_wanted: Callable[[str], bool]) -> list[Mark]:
    """Return the events of the curves that are wanted."""
    return [Mark(e.step, e.kind, f"{e.curve}: {e.kind}") for e in run.events if is_wanted(e.curve)]


def _marks(runs: Sequence[RunRecord], is_wanted: Callable[[str], bool]) -> dict[str, list[Mark]]:
    """Return the marks of a chart of runs, with the run's name where there are several."""
    return {
        "": [
            Mark(mark.step, mark.kind, f"{run.name}: {mark.label}" if len(runs) > 1 else mark.label)
            for run in runs
            for mark in marks(run, is_wanted)
        ]
    }


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """Return the names of all measures of the runs."""
    return list(dict.fromkeys(name for run in runs for name in run.measures))


def _validation(runs: Sequence[RunRecord]) -> Chart | None:
    """Return bits per byte: the mean and each language, of each split; the one watched for grokking comes first."""
    by_split: dict[str, dict[str, str]] = defaultdict(dict)
    for name in _names(runs):
        if at := metrics.BITS_PER_BYTE_OF.fullmatch(name):
            by_split[at["split"]][at["language"]] = name
    watched = str(runs[0].config.get("grokking", {}).get("split", ""))
    groups: dict[str, Members] = {}
    for split in sorted(by_split, key=lambda split: (split != watched, split == metrics.TRAIN_SUBSET)):
        groups[split] = _by_language(runs, by_split[split])
    about = "Lower is better. Marks are events of language modelling."
    events = _marks(runs, lambda curve: curve.startswith("lm/"))
    return chart_of(runs, "Validation by language", "bits per byte", groups, about=about, marks=events)


def _by_language(runs: Sequence[RunRecord], names: Mapping[str, str]) -> Members:
    """Return a measure of each language, behind the mean where there are several. names: language -> the measure."""
    of_mean = {"mean": [*names.values()]} if len(names) > 1 else {}
    return with_averages(runs, of_mean | {language: [name] for language, name in names.items()})


def _training(runs: Sequence[RunRecord]) -> Chart | None:
    prefix = f"{metrics.TRAIN_LOSS}/"
    tasks = [name for name in _names(runs) if name.startswith(prefix)]
    members = {name.removeprefix(prefix): of_runs(runs, name) for name in tasks}
    parts = {name: at for name in _names(runs) if (at := metrics.EXTRA_LOSS_OF.fullmatch(name))}
    members |= {f"{at['task']}, {at['name'].replace('_', ' ')}": of_runs(runs, name) for name, at in parts.items()}
    about = "Of each task in its own batches, in nats where it is a cross-entropy."
    return chart_of(runs, "Training loss by task", "loss", {"": members}, about=about, is_log=True)


def _arithmetic(runs: Sequence[RunRecord]) -> list[Chart | None]:
    shown = {
        "Progress measures": (metrics.RESTRICTED_LOSS, metrics.EXCLUDED_LOSS),
        "Structure of the embedding": (metrics.EMBEDDING_GINI,),
        "Key frequencies": (metrics.KEY_FREQUENCIES,),
    }
    return [_plain(runs, title, "", names) for title, names in shown.items()]


def _plain(
    runs: Sequence[RunRecord],
    title: str,
    unit: str,
    names: Sequence[str],
    *,
    is_log: bool = False,
    controls: Mapping[str, float] = NO_CONTROLS,
    about: str = "",
) -> Chart | None:
    """Return a chart of measures under the last parts of their names."""
    labels = {name: name.rpartition("/")[2].removesuffix("_gib").replace("_", " ") for name in names}
    members = {label: of_runs(runs, name) for name, label in labels.items()}
    events = {"": [Mark(t.step, t.name.rpartition("/")[2], f"{t.name}: {t.text}") for run in runs for t in run.texts]}
    return chart_of(runs, title, unit, {"": members}, is_log=is_log, controls=controls, about=about, marks=events)


def _grokking(runs: Sequence[RunRecord]) -> list[Chart | None]:
    """Return the losses, and the accuracies, of each curve; those with events first, then those of no part."""
    curves: dict[str, dict[str, str]] = defaultdict(dict)
    for name in _names(runs):
        if at := GROKKING.fullmatch(name):
            curves[at["curve"]][at["measure"]] = name
    with_events = {event.curve for run in runs for event in run.events}
    ordered = sorted(curves, key=lambda curve: (curve not in with_events, metrics.is_of_a_part(curve), curve))
    charts = []
    for title, unit, kind in (("Losses", "nats", "loss"), ("Accuracies", "share", "accuracy")):
        groups: dict[str, Members] = {}
        for curve in [curve for curve in ordered if f"val_{kind}" in curves[curve]][:MOST_CURVES]:
            of_curve = {"training": curves[curve].get(f"train_{kind}", ""), "validation": curves[curve][f"val_{kind}"]}
            groups[curve] = {side: of_runs(runs, name) for side, name in of_curve.items()}
        events = {curve: _marks(runs, curve.__eq__)[""] for curve in groups}
        if len(runs) > 1:
            events = {
                f"{curve} {side}": found for curve, found in events.items() for side in ("training", "validation")
            }
        n, of = len(groups), sum(f"val_{kind}" in curves[curve] for curve in ordered)
        about = f"{n} of {of} curves are here, those with events first." if n < of else ""
        charts.append(chart_of(runs, title, unit, groups, about=about, marks=events))
    return charts


def _tasks(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return a chart for each task's measure: splits, beside what needs no training, and what chance would give."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    names = dict.fromkeys(_names(runs))
    for name in names:
        if at := metrics.judged_of(name, names):
            rows.setdefault((at.task, at.measure), {}).setdefault(at.split, []).append(name)
    return _some(*(_task(runs, task, measure, by_split) for (task, measure), by_split in rows.items()))


def _task(runs: Sequence[RunRecord], task: str, measure: str, by_split: Mapping[str, list[str]]) -> Chart | None:
    split, names = next(iter(by_split.items()))
    beside = {f"{said}, no training": suffix for said, suffix in metrics.CONTROLS.items()} | {"chance": metrics.CHANCE}
    of_each = {said: [_beside([run], names, suffix) for run in runs] for said, suffix in beside.items()}
    controls = {said: values[0] for said, values in of_each.items() if np.isfinite(values[0]) and len({*values}) == 1}
    about = f"Dashed lines are of {split}." if controls else ""
    if len(names) > len(runs) == 1:
        about += f" The mean of {len(names)}, such as {names[0].split('/')[3]}."
    title, events = f"{task}: {measure.replace('_', ' ')}", _marks(runs, lambda curve: curve.startswith(f"{task}/"))
    unit = "bits per byte" if measure.endswith(metrics.BITS_PER_BYTE) else "" if measure == "loss" else "share"
    groups = {"": with_averages(runs, by_split)}
    chart = chart_of(runs, title, unit, groups, controls=controls, about=about, marks=events)
    return _with_interval(runs[0], chart, names[0]) if chart and len(runs) == len(names) == 1 else chart


def _beside(runs: Sequence[RunRecord], names: Sequence[str], suffix: str) -> float:
    """Return the mean of what stands beside measures under a suffix, as last known; nan where no run has it."""
    found = [run.last(name + suffix) for run in runs for name in names]
    values = [value for value in found if value is not None and np.isfinite(value)]
    return fmean(values) if values else float("nan")


def _with_interval(run: RunRecord, chart: Chart, name: str) -> Chart:
    """Add the 95 % interval of a measure to a chart of it."""
    ends: dict[Style, str] = {"low": metrics.LOW, "high": metrics.HIGH}
    found = {style: run.measures[name + end] for style, end in ends.items() if name + end in run.measures}
    for lines in chart.sets.values():
        lines += [Line("95 % interval", series, style) for style, series in found.items()]
    return replace(chart, about=f"{chart.about} So is the band, a 95 % interval.") if found else chart


def _by_depth(run: RunRecord, metric: Callable[[str], bool], measure: str) -> dict[str, dict[int, Series]]:
    """Return what is measured of hidden states: {pair of languages or concepts: {depth: series}}."""
    found: dict[str, dict[int, Series]] = defaultdict(dict)
    for name, series in run.measures.items():
        if (at := metrics.AT_DEPTH.fullmatch(name)) and at["measure"] == measure and metric(at["metric"]):
            found[at["metric"]][int(at["depth"])] = series
    return found


def _maps(runs: Sequence[RunRecord]) -> list[HeatMap]:
    shown = [
        ("Alignment: mean reciprocal rank", "Higher: a verse finds its translation.", metrics.ALIGNMENT, "mrr"),
        (
            "Alignment: Procrustes distance",
            "Lower: one rotation lays the languages on each other.",
            metrics.ALIGNMENT,
            "procrustes",
        ),
        (
            "Transfer of concepts",
            "Higher: a probe trained in one language is right in others.",
            metrics.CLUSTERING,
            "transfer",
        ),
        (
            "Concepts as clusters: V-measure",
            "Higher: verses of a concept lie together.",
            metrics.CLUSTERING,
            "v_measure",
        ),
    ]
    maps = [_map(runs, title=title, about=about, of=of, measure=measure) for title, about, of, measure in shown]
    shares = {run.name if len(runs) > 1 else "": _eta(run) for run in runs}
    about = "Share of the states' variance that lies between languages."
    maps.append(HeatMap(title="Language in the states", about=about, sets={k: v for k, v in shares.items() if v}))
    return [found for found in maps if found.sets]


def _map(runs: Sequence[RunRecord], *, title: str, about: str, of: str, measure: str) -> HeatMap:
    sets: dict[str, dict[int, Series]] = {}
    controls: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        probes = _by_depth(run, lambda metric: metric.startswith(of), measure)
        if not probes:
            continue
        depths = sorted({depth for by_depth in probes.values() for depth in by_depth})
        pairs = [*probes.values()]
        whole = {depth: mean([by_depth[depth] for by_depth in pairs if depth in by_depth]) for depth in depths}
        sets[" ".join([run.name] * (len(runs) > 1) + [f"mean of {len(pairs)} pairs"] * (len(pairs) > 1))] = whole
        if len(runs) == 1 and 1 < len(pairs) <= MOST_PAIRS:
            sets |= {probe.removeprefix(f"{of}/"): by_depth for probe, by_depth in probes.items()}
        for probe in probes:
            for said, surface in (("n-grams", metrics.BY_NGRAMS), ("length", metrics.BY_LENGTH)):
                if (value := run.last(metrics.on_surface(probe, surface, measure))) is not None:
                    controls[said].append(value)
    known = {said: fmean(found) for said, found in controls.items()} if len(runs) == 1 else {}
    return HeatMap(title=title, about=about, sets=sets, controls=known)


def _eta(run: RunRecord) -> dict[int, Series]:
    found = {name: metrics.ETA_AT_DEPTH.fullmatch(name) for name in run.measures}
    return {int(at["depth"]): run.measures[name] for name, at in found.items() if at}


def _memorisation(runs: Sequence[RunRecord]) -> list[Chart | None]:
    languages = [at["language"] for name in _names(runs) if (at := metrics.EXTRACTED_OF.fullmatch(name))]
    shown = {
        "Training verses given back word for word": metrics.EXTRACTED,
        "Membership: how often a training verse has the lower loss": metrics.MEMBERSHIP,
        "Loss of other wordings less that of the trained one": metrics.WORDING_GAP,
    }
    charts = []
    for title, measure in shown.items():
        names = {language: metrics.memorised(language, measure) for language in languages}
        unit = "nats a token" if measure == metrics.WORDING_GAP else "share"
        controls = {"chance": 0.5} if measure == metrics.MEMBERSHIP else {}
        charts.append(chart_of(runs, title, unit, {"": _by_language(runs, names)}, controls=controls))
    repeated = {name: at["repetitions"] for name in _names(runs) if (at := metrics.EXPOSURE_OF.fullmatch(name))}
    members = with_averages(runs, {f"{times} an epoch": [name] for name, times in repeated.items()})
    chance = _beside(runs, [*repeated], metrics.CHANCE)
    controls = {"chance": chance} if np.isfinite(chance) else {}
    return [*charts, chart_of(runs, "Exposure of canaries", "bits", {"": members}, controls=controls)]


def _optimisation(runs: Sequence[RunRecord]) -> list[Chart | None]:
    ratios = (metrics.GRADIENT_RATIO, metrics.UPDATE_RATIO)
    has_skipped = any(run.last(metrics.SKIPPED_STEPS) for run in runs)
    return [
        _plain(runs, "Learning rate", "", [metrics.LEARNING_RATE, metrics.LR_SCALE]),
        _plain(runs, "Gradient norm", "before clipping", [metrics.GRAD_NORM], is_log=True),
        _plain(runs, "First layer / last layer", "ratio", ratios, is_log=True, controls={"equal": 1.0}),
        _plain(runs, "Norm of the weights", "", [metrics.WEIGHT_NORM]),
        _plain(runs, "Size of the logits", "root mean square", [metrics.LOGIT_RMS, metrics.LOGIT_SCALE]),
        _plain(runs, "Effective rank of the states", "dimensions", [metrics.EFFECTIVE_RANK]),
        _plain(runs, "Health", "share", [metrics.ZERO_LOSS, metrics.UPDATE_COSINE]),
        _plain(runs, "Steps without an update", "steps", [metrics.SKIPPED_STEPS] if has_skipped else []),
    ]


def _norms(runs: Sequence[RunRecord]) -> list[HeatMap]:
    titles = {metrics.LAYER_GRADIENT: "Gradient norm by layer", metrics.LAYER_UPDATE: "Norm of the update by layer"}
    maps = []
    for norm, title in titles.items():
        sets: dict[str, dict[int, Series]] = {}
        for run in runs:
            found = {name: LAYER_NORM.fullmatch(name) for name in run.measures}
            by_depth = {int(at["depth"]): run.measures[name] for name, at in found.items() if at and at["norm"] == norm}
            sets |= {run.name if len(runs) > 1 else "": by_depth} if by_depth else {}
        maps.append(HeatMap(title=title, about="Colours are logarithmic.", sets=sets, is_log=True))
    return [found for found in maps if found.sets]


def _speed(runs: Sequence[RunRecord]) -> list[Chart | None]:
    predicted = {"planned for the GPU": metrics.GPU_PREDICTED, "planned for the host": metrics.HOST_PREDICTED}
    planned = {said: value for said, name in predicted.items() if np.isfinite(value := _beside(runs, [name], ""))}
    peaks = [metrics.GPU_PEAK, metrics.HOST_PEAK]
    return [
        _plain(runs, "Throughput", "tokens a second", [metrics.TOKENS_PER_SECOND]),
        _plain(runs, "Time of a step", "seconds", [metrics.STEP_SECONDS], is_log=True),
        _plain(runs, "Memory: planned and measured", "GiB", peaks, controls=planned if len(runs) == 1 else {}),
    ]


def _others(runs: Sequence[RunRecord]) -> Chart | None:
    names = [name for name in _names(runs) if not KNOWN.match(name)][:MOST_CURVES]
    return chart_of(runs, "Measures of your own hooks", "", {name: {"": of_runs(runs, name)} for name in names})

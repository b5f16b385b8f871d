"""Every measure in words, a line each or a few in a line."""

from collections.abc import Mapping
from math import isfinite, nan

from genesis_ds import metrics
from genesis_ds.data.strata import STRATA
from genesis_ds.model.multitask import LM

BESIDE = (
    *metrics.CONTROLS.values(),
    *(metrics.CHANCE, metrics.TRIALS, metrics.LOW, metrics.HIGH),
    *(metrics.of_stratum(metrics.BITS_PER_BYTE, stratum) for stratum in STRATA),
)
"""Endings of the names of what stands beside a measure, in its line."""
PROBE_KEYS = ("transfer", "v_measure", "procrustes")
"""The measures of hidden states by which the best depth is chosen: the first that there is."""


def task_lines(measured: Mapping[str, float]) -> list[str]:
    """Return a line for each task of a report; none where language modelling is the only one."""
    prefix = f"{metrics.TRAIN_LOSS}/"
    tasks = [name.removeprefix(prefix) for name in measured if name.startswith(prefix)]
    return [_task_line(task, measured) for task in tasks] if tasks != [LM] else []


def _task_line(task: str, measured: Mapping[str, float]) -> str:
    loss, norm, tokens, sequences, accuracy = (
        metrics.of_task(metric, task)
        for metric in (
            metrics.TRAIN_LOSS,
            metrics.TRAIN_GRAD_NORM,
            metrics.TRAIN_TOKENS,
            metrics.TRAIN_SEQUENCES,
            metrics.TRAIN_ACCURACY,
        )
    )
    line = f"  {task:<16} loss {measured[loss]:.4f}  grad {measured[norm]:.1e}  {measured[sequences]:,.0f} sequences"
    line += f"  {measured[tokens]:,.0f} tokens"
    if accuracy in measured:
        kinds = {
            name.removeprefix(f"{accuracy}/"): measured[name] for name in measured if name.startswith(f"{accuracy}/")
        }
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in kinds.items())
        line += f"  right {measured[accuracy]:.0%}" + (f" ({shares})" if len(kinds) > 1 else "")
    return line


def trajectory_line(measured: Mapping[str, float]) -> str:
    """Return the line of the norms, with the size of the logits and the rank of the states where they are known."""
    columns = [
        f"weights {measured[metrics.WEIGHT_NORM]:.1f}",
        f"gradient first/last {measured[metrics.GRADIENT_RATIO]:.2f}",
        f"update first/last {measured[metrics.UPDATE_RATIO]:.2f}",
    ]
    if metrics.LOGIT_RMS in measured:
        columns.append(f"logit rms {measured[metrics.LOGIT_RMS]:.2f}")
        columns.append(f"effective rank {measured[metrics.EFFECTIVE_RANK]:.1f}")
    return f"  {'trajectory':<16} {'  '.join(columns)}"


def evaluation_lines(measured: Mapping[str, float]) -> list[str]:
    """Return a line for each validation measure, with what to read it beside, and the lines of the probes."""
    lines = [
        f"  {name:<44} {value:.4f}" + (f"  ({', '.join(beside)})" if (beside := _beside(name, measured)) else "")
        for name, value in measured.items()
        if name.startswith("val/") and not name.endswith(BESIDE)
    ]
    return lines + memorisation_lines(measured) + language_lines(measured) + probe_lines(measured)


def _beside(name: str, measured: Mapping[str, float]) -> list[str]:
    """Return what stands beside a validation measure: its parts, or the best of what needs no training, and chance."""
    parts = {part: metrics.of_stratum(name, part) for part in STRATA}
    beside = [f"{part} {measured[metric]:.4f}" for part, metric in parts.items() if metric in measured]
    controls = {said: measured[name + suffix] for said, suffix in metrics.CONTROLS.items() if name + suffix in measured}
    if controls:
        strongest = max(controls, key=lambda said: controls[said])
        beside.append(f"{strongest} {controls[strongest]:.4f}")
    if (chance := measured.get(name + metrics.CHANCE)) is not None:
        beside.append(f"chance {chance:.4f}")
    if (low := measured.get(name + metrics.LOW)) is not None:
        beside.append(f"95 % {low:.4f} to {measured[name + metrics.HIGH]:.4f}")
    if (trials := measured.get(name + metrics.TRIALS)) is not None:
        beside.append(f"n {trials:,.0f}")
    return beside


def memorisation_lines(measured: Mapping[str, float]) -> list[str]:
    """Return a line for each language of which it was asked what the model knows by heart."""
    found = [at["language"] for name in measured if (at := metrics.EXTRACTED_OF.fullmatch(name))]
    return [_memorisation_line(language, measured) for language in found] + exposure_lines(measured)


def _memorisation_line(language: str, measured: Mapping[str, float]) -> str:
    extracted, auc = (metrics.memorised(language, name) for name in (metrics.EXTRACTED, metrics.MEMBERSHIP))
    of_validation = measured[metrics.memorised(language, metrics.EXTRACTED_VALIDATION)]
    beside = [f"{measured[auc + metrics.LOW]:.3f} to {measured[auc + metrics.HIGH]:.3f}"]
    if (before := measured.get(auc + metrics.AT_STEP_0)) is not None:
        beside.append(f"step 0 {before:.3f}")
    name = f"{metrics.MEMORISATION}/{language}"
    trials = f"n {measured[extracted + metrics.TRIALS]:,}"
    shares = f"extracted {measured[extracted]:.3f} (validation {of_validation:.3f}, {trials})"
    line = f"  {name:<16} {shares}  {metrics.MEMBERSHIP} {measured[auc]:.3f} ({', '.join(beside)})"
    gap, val_gap, reworded = (
        metrics.memorised(language, name)
        for name in (metrics.WORDING_GAP, metrics.WORDING_GAP_VALIDATION, metrics.REWORDED)
    )
    if gap in measured:
        line += f"  {metrics.WORDING_GAP} {measured[gap]:.3f} (validation {measured[val_gap]:.3f})"
        line += f"  reworded {measured[reworded]:.3f}"
    return line


def exposure_lines(measured: Mapping[str, float]) -> list[str]:
    """Return, in a line, how well canaries are known, by how often an epoch has them; none without any."""
    found = {name: at["repetitions"] for name in measured if (at := metrics.EXPOSURE_OF.fullmatch(name))}
    bits = "  ".join(f"{measured[name]:.1f} ({repetitions} an epoch)" for name, repetitions in found.items())
    chance = [f"(chance {measured[name + metrics.CHANCE]:.1f})" for name in found][:1]
    return [f"  {metrics.EXPOSURE} {bits}  {chance[0]}"] if found else []


def language_lines(measured: Mapping[str, float]) -> list[str]:
    """Return, in a line, the share of the states' variance that lies between languages at each depth; none without."""
    found = {at["depth"]: value for name, value in measured.items() if (at := metrics.ETA_AT_DEPTH.fullmatch(name))}
    shares = "  ".join(f"{value:.3f} (layer {depth})" for depth, value in found.items())
    return [f"  {metrics.ALIGNMENT:<16} {metrics.ETA_SQUARED} {shares}"] if found else []


def probe_lines(measured: Mapping[str, float]) -> list[str]:
    """Return a line for every two aligned languages and one for the concepts, each of the depth where it is best.

    Beside a measure stands the strongest of its controls: the text's n-grams or lengths, or the model at step 0.
    """
    return [_probe_line(probe, by_depth, measured) for probe, by_depth in probes_in(measured).items()]


def probes_in(measured: Mapping[str, float]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the measures of hidden states: {two languages, or the concepts: {depth: {measure: value}}}."""
    probes: dict[str, dict[int, dict[str, float]]] = {}
    for name, value in measured.items():
        if at := metrics.AT_DEPTH.fullmatch(name):
            probes.setdefault(at["metric"], {}).setdefault(int(at["depth"]), {})[at["measure"]] = value
    return probes


def best_depth(probe: str, by_depth: Mapping[int, Mapping[str, float]]) -> int:
    """Return the depth at which a probe is best by the first of PROBE_KEYS that it has."""
    key = next(name for name in PROBE_KEYS if name in next(iter(by_depth.values())))
    return (max if probe == metrics.CLUSTERING else min)(by_depth, key=lambda depth: by_depth[depth][key])


def _probe_line(probe: str, by_depth: Mapping[int, Mapping[str, float]], measured: Mapping[str, float]) -> str:
    depth = best_depth(probe, by_depth)
    values = by_depth[depth]
    key = next(name for name in PROBE_KEYS if name in values)
    columns = []
    for name in [key, *(name for name in values if name != key)]:
        if "/" in name or name.endswith(metrics.PERMUTED):
            continue
        beside = [control] if (control := strongest_control(probe, depth, name, measured)) else []
        if (chance := values.get(name + metrics.CHANCE)) is not None:
            beside.append(f"chance {chance:.3f}")
        if name == "language_entropy" and (noise := values.get(name + metrics.PERMUTED)) is not None:
            beside.append(f"noise {noise:.3f}")
        if name == key and (z := values.get(name + metrics.Z_SCORE)) is not None:
            beside.append(f"z {z:.1f}")
        columns.append(f"{name} {values[name]:.3f}" + (f" ({', '.join(beside)})" if beside else ""))
    trials = f"(n {measured[probe + metrics.TRIALS]:,})"
    return f"  {probe:<16} layer {depth}  {'  '.join(columns)}  {trials}"


def strongest_control(probe: str, depth: int, measure: str, measured: Mapping[str, float]) -> str | None:
    """Return the strongest control of a measure with its value; None where it has no better or worse."""
    if "language" in measure:
        return None
    controls = {
        "n-grams": measured.get(metrics.on_surface(probe, metrics.BY_NGRAMS, measure), nan),
        "length": measured.get(metrics.on_surface(probe, metrics.BY_LENGTH, measure), nan),
        "step 0": measured.get(metrics.at_depth(probe, depth, measure) + metrics.AT_STEP_0, nan),
    }
    found = {name: value for name, value in controls.items() if isfinite(value)}
    strongest = (min if measure == "procrustes" else max)(found, key=lambda name: found[name], default=None)
    return f"{strongest} {found[strongest]:.3f}" if strongest else None

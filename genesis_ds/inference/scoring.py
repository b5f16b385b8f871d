"""`genesis-ds score`: how well models predict a text, as data that is printed or written as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.analysis.resampling import wilson
from genesis_ds.config import EvaluationConfig
from genesis_ds.disk import warn
from genesis_ds.errors import UserError
from genesis_ds.inference.loaded import KnownModel
from genesis_ds.inference.nats import of_ensemble
from genesis_ds.inference.rates import GroupRate, Judged, Units, group_rates
from genesis_ds.inference.report import About, BookEntry, Entry, PairsOfModel, PairsReport, PartEntry, Report, UnitEntry
from genesis_ds.inference.scored_text import Part, joined, judged, of_split, read_input

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Ensemble:
    """Models whose probabilities are judged, each alone and, where that is wanted, their mean as one more.

    Of models that are left in their files one at a time is in memory.
    """

    models: Sequence[KnownModel]
    has_mean: bool

    def __post_init__(self) -> None:
        """Raise UserError for a mean of one model, or of models that have different tokenizers."""
        if not self.has_mean:
            return
        if len(self.models) < 2:
            raise UserError("ensemble: it is of several models; give two or more")
        first = self.models[0]
        for other in self.models[1:]:
            if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
                raise UserError(
                    f"ensemble: {first.path} and {other.path} have different tokenizers, so that their probabilities "
                    "are of different tokens; leave --ensemble out, or give models of one tokenizer"
                )

    @property
    def names(self) -> list[str]:
        """What the columns of a table are called."""
        return [model.name for model in self.models] + [ENSEMBLE] * self.has_mean

    def nats(
        self, tokens: Sequence[Sequence[NDArray[np.integer[Any]]]], max_windows: int = 0
    ) -> list[list[NDArray[np.float64]]]:
        """Return for each model, and the mean, the nats of the tokens of each text.

        tokens: for each model, the texts as its tokenizer spells them.
        """
        found = [model.nats(texts, max_windows) for model, texts in zip(self.models, tokens, strict=True)]
        if self.has_mean:
            found.append([of_ensemble(of_text) for of_text in zip(*found, strict=True)])
        return found


def own_split(
    models: Sequence[KnownModel], corpus: str | None, languages: Sequence[str], split: str, max_windows: int | None
) -> tuple[str, list[Part], int]:
    """Return a split of a corpus in words and in parts, and the windows that are taken of each language (0: all).

    What is None, or empty, is as in the first model's run; of the training text a part is taken. Raises UserError where
    the corpus is not known, and for models whose runs have split it otherwise.
    """
    model, *others = models
    data = model.run.get("data", {})
    seed = data.get("split_seed", 0)
    for other in others:
        theirs = other.run.get("data", {}).get("split_seed", seed)
        if theirs != seed:
            raise UserError(
                f"{model.path} has the split_seed {seed}, {other.path} {theirs}: what is validation for one is "
                "training text for the other; score them one by one, or give --file"
            )
    for unknown in (each for each in models if "data" not in each.run):
        warn(f"{unknown.path}: does not say how its text was split; split_seed {seed} is taken")
    directory = corpus or data.get("corpus")
    if not directory:
        raise UserError(f"{model.path}: does not say its corpus; give --corpus, --text, --file or --pairs")
    if not corpus and not Path(directory).exists():
        raise UserError(f"{directory}: the corpus of {model.path} is not there; give --corpus, --text or --file")
    chosen = languages or ([] if corpus else data.get("languages", []))
    parts = of_split(directory, chosen, split, seed)
    if max_windows is None:
        max_windows = _windows_of_training(model, parts) if split == metrics.TRAIN_SUBSET else 0
    return f"{split} of {directory}", parts, max_windows


def bits_per_byte(models: Sequence[KnownModel], split: str) -> dict[str, dict[str, float]]:
    """Return the name of each model, and ENSEMBLE for the mean of several -> language -> bits per byte of a split.

    The windows are those of the evaluations of the first model's run, so that its values are those that it measured,
    but for rounding. Raises UserError as own_split and Ensemble.
    """
    what, parts, _ = own_split(models, None, (), split, None)
    ensemble = Ensemble(models, has_mean=len(models) > 1)
    report = score_parts(ensemble, what, "verses", parts, _windows_of_training(models[0], parts))
    return {
        name: {part.name: part.models[number].bits_per_byte for part in report.parts}
        for number, name in enumerate(report.names)
    }


def _windows_of_training(model: KnownModel, parts: Sequence[Part]) -> int:
    own = EvaluationConfig(max_windows=model.run.get("evaluation", {}).get("max_windows"))
    return own.windows(len(model.run.get("data", {}).get("languages") or parts))


def score_parts(ensemble: Ensemble, text: str, units_are: str, parts: Sequence[Part], max_windows: int = 0) -> Report:
    """Return what the models say of a text: all of it, its parts, books and units, the worst for the first model first.

    text: what it is, and units_are what its units are, in words. max_windows: of each part, evenly spaced; units that
    are not whole in them are left out.
    """
    if max_windows and len({(model.context, model.tokenizer.fingerprint) for model in ensemble.models}) > 1:
        raise UserError(
            "max_windows: the models have other contexts or tokenizers, so that their windows are of different text; "
            "give --max_windows 0, which takes all of it"
        )
    tokens = [[part.tokens(model.tokenizer) for part in parts] for model in ensemble.models]
    nats = ensemble.nats([[part.ids for part in of_model] for of_model in tokens], max_windows)
    tokenizers = [model.tokenizer for model in ensemble.models]
    if ensemble.has_mean:
        tokens, tokenizers = [*tokens, tokens[0]], [*tokenizers, tokenizers[0]]
    found = [judged(*of_model) for of_model in zip(nats, tokens, tokenizers, strict=True)]
    abouts = [About(model.name, str(model.path), model.context, model.tokenizer.kind) for model in ensemble.models]
    return _report(found, joined(parts), text=text, units_are=units_are, models=abouts, names=ensemble.names)


def score_pairs(ensemble: Ensemble, path: str) -> PairsReport:
    """Return how often each model gives the better text of a pair the higher probability.

    path: a file of lines better<TAB>worse, or - for the standard input. Raises UserError for another line.
    """
    pairs = []
    for number, line in enumerate(read_input(path, "pairs").removesuffix("\n").split("\n"), 1):
        better, _, worse = line.partition("\t")
        if not better or not worse or "\t" in worse:
            raise UserError(f"{path}: line {number}: a pair is `better<TAB>worse`, two texts with one tab between them")
        if better == worse:
            raise UserError(f"{path}: line {number}: both texts are the same; leave the line out")
        pairs.append((better, worse))
    flat = [text for pair in pairs for text in pair]
    tokens = [model.beginnings(flat) for model in ensemble.models]
    models = []
    for name, nats in zip(ensemble.names, ensemble.nats(tokens), strict=True):
        of_pairs = np.array([of_text.sum() for of_text in nats]).reshape(-1, 2)
        right = of_pairs[:, 0] < of_pairs[:, 1]
        accuracy = float(right.mean())
        wrong = [pair for pair, is_right in zip(pairs, right, strict=True) if not is_right]
        models.append(PairsOfModel(name, accuracy, wilson(accuracy, len(right)), wrong))
    return PairsReport(path, len(pairs), models)


def _report(found: Sequence[Judged], units: Units, **about: Any) -> Report:
    there = np.logical_and.reduce([model.n_bytes > 0 for model in found])
    whole = np.logical_and.reduce([model.is_whole for model in found]) & there
    scored = np.logical_and.reduce([model.n_tokens > 0 for model in found])  # if only by what ends it, of no byte
    parts, books = np.array(units.parts), np.array(units.books)

    def rates(members: NDArray[np.bool_]) -> list[GroupRate]:
        return group_rates(found, units.chapters, np.flatnonzero(members & scored))

    of_books = [
        BookEntry(rates((parts == part) & (books == book)), book, part)
        for part, book in dict.fromkeys(zip(units.parts, units.books, strict=True))
        if book and ((parts == part) & (books == book) & there).any()
    ]
    of_units = [
        UnitEntry([model.rate(np.array([n])) for model in found], units.names[n], units.parts[n], units.texts[n])
        for n in np.flatnonzero(whole)
    ]
    return Report(
        n_units=int(there.sum()),
        n_chapters=len(np.unique(units.chapters[there])) if any(units.books) else None,
        all=Entry(rates(there)),
        parts=[PartEntry(rates(parts == part), part) for part in dict.fromkeys(parts[there].tolist())],
        books=sorted(of_books, key=_badness, reverse=True),
        units=sorted(of_units, key=_badness, reverse=True),
        **about,
    )


def _badness(entry: Entry) -> float:
    return entry.models[0].bits_per_byte

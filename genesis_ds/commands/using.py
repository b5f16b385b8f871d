"""The commands that use a trained model. Their flags are the fields of dataclasses, whose texts are their --help."""

import json
import secrets
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genesis_ds.config.checks import require_count
from genesis_ds.config.sampling import Sampling
from genesis_ds.errors import UserError

if TYPE_CHECKING:
    from genesis_ds.inference.loaded import KnownModel, LoadedModel


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which model is meant, and where it is computed."""

    checkpoint: str | None = None
    """Of a run: best, step-N, or a name. None: the newest good one."""
    tokenizer: str | None = None
    """bytes, or the path of a SentencePiece model, in the place of the model's own."""
    device: str | None = None
    """cpu or cuda. None: a GPU if there is one."""
    trust: bool = False
    """Run code that the model's files hold, if they do."""

    def load(self, path: str) -> "LoadedModel":
        """Return the model of a path."""
        from genesis_ds.inference.loaded import load

        return load(path, self.checkpoint, self.tokenizer, self.device, self.trust)


@dataclass(frozen=True)
class GenerateFlags(ModelFlags, Sampling):
    """What `generate` takes."""

    model: str
    """A run's directory, a checkpoint, an export, or a file of weights."""
    prompt: str | None = None
    """The beginning of a text; - reads it from the standard input."""
    interactive: bool = False
    """Read a beginning from every line that is typed, until Ctrl-D."""
    show_probs: bool = False
    """Show the probability of every token, and of the likeliest in its place."""
    json: bool = False
    """Write one line of JSON for each prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interactive == bool(self.prompt):
            raise UserError("prompt: give --prompt TEXT, --prompt - for the standard input, or --interactive")


@dataclass(frozen=True)
class ScoreFlags(ModelFlags):
    """What `score` takes."""

    models: tuple[str, ...]
    """Runs' directories, checkpoints, exports or files of weights. Each is judged on the same text."""
    text: tuple[str, ...] = ()
    """Texts to score."""
    file: tuple[str, ...] = ()
    """Files to score, line by line; - is the standard input."""
    pairs: str | None = None
    """A file of lines better<TAB>worse, or -: how often the better text is the likelier one."""
    corpus: str | None = None
    """A corpus to score. None: the first model's own."""
    split: Literal["val_chapter", "val_book", "train_subset"] = "val_chapter"
    """Which verses of the corpus; train_subset is a part of the training text."""
    languages: tuple[str, ...] = ()
    """Of the corpus. Without them: those of the first model's run in its own corpus, all in another."""
    max_windows: int | None = None
    """Windows of each language that are scored, evenly spaced; 0 all. None: all of a validation split, of train_subset
    as many as in evaluations of the run."""
    ensemble: bool = False
    """Judge the mean of the models' probabilities too."""
    snapshots: int = 0
    """Judge of each run its last so many kept weights, and the mean of all, in the place of one checkpoint."""
    worst: int = 5
    """How many of the worst books and verses, or wrong pairs, are shown."""
    json: bool = False
    """Write all of it as JSON."""

    def __post_init__(self) -> None:
        require_count("worst", self.worst)
        require_count("snapshots", self.snapshots)
        if self.snapshots and self.checkpoint:
            raise UserError(
                "snapshots: they are the last weights of a run, whatever --checkpoint; leave one of them out"
            )
        require_count("max_windows", self.max_windows or 0)
        if sum([bool(self.text or self.file), self.pairs is not None, self.corpus is not None]) > 1:
            raise UserError("score: give --text and --file, or --pairs, or --corpus, and not several of them")
        of_corpus = {"languages": self.languages, "max_windows": self.max_windows}
        unused = [name for name, value in of_corpus.items() if value not in (None, ())]
        if unused and (self.text or self.file or self.pairs is not None):
            raise UserError(f"{unused[0]}: it is of a corpus; leave it out with --text, --file and --pairs")

    def known(self) -> list["KnownModel"]:
        """Return the models, which stay in their files until they are judged."""
        from genesis_ds.checkpoint.load.find import find_model, snapshots
        from genesis_ds.inference.loaded import known_model

        paths = map(Path, self.models)
        found = [snapshots(path, n) if (n := self.snapshots) else [find_model(path, self.checkpoint)] for path in paths]
        return [known_model(path, self.tokenizer, self.device, self.trust) for of_each in found for path in of_each]


def generate(flags: GenerateFlags) -> None:
    """Let a trained model go on with a text.

    Examples:
        genesis-ds generate runs/quickstart --prompt 'In the beginning'
        genesis-ds generate exported/quickstart --prompt - --n 3 --temperature 1 --top_p 0.9 --seed 1
        genesis-ds generate runs/quickstart --checkpoint step-150 --interactive
    """
    from genesis_ds.inference.scored_text import read_input
    from genesis_ds.inference.writing import as_text, converse, write

    prompt = as_text(flags.prompt or "", "prompt")
    if prompt == "-":
        prompt = read_input("-", "prompt").removesuffix("\n")
    stop = tuple(as_text(word, "stop") for word in flags.stop)
    flags = replace(flags, stop=stop, seed=secrets.randbelow(2**32) if flags.seed is None else flags.seed)
    model = flags.load(flags.model)

    def write_after(prompt: str) -> None:
        write(model, prompt, flags, as_json=flags.json, show_probs=flags.show_probs)

    if not flags.json:
        tokens = f"{model.context} tokens of {model.tokenizer.kind}"
        print(f"{model.path}: context {tokens}, seed {flags.seed}", file=sys.stderr)
    if flags.interactive:
        converse(write_after)
    else:
        write_after(prompt)


def score(flags: ScoreFlags) -> None:
    """Score texts by trained models: bits per byte and perplexity, by language, book and verse, the worst first.

    Examples:
        genesis-ds score runs/quickstart
        genesis-ds score runs/quickstart --text 'In the beginning God created the heaven and the earth.'
        genesis-ds score runs/quickstart runs/deep_50m --split val_book --ensemble --json
        genesis-ds score runs/quickstart --snapshots 5 --split val_book
        genesis-ds score runs/quickstart --pairs pairs.tsv
    """
    from genesis_ds.inference.report import PairsReport, Report
    from genesis_ds.inference.score_table import pairs_table, table
    from genesis_ds.inference.scored_text import of_file, of_texts
    from genesis_ds.inference.scoring import Ensemble, own_split, score_pairs, score_parts
    from genesis_ds.inference.writing import as_text

    parts = of_texts([as_text(word, "text") for word in flags.text]) + [of_file(path) for path in flags.file]
    models = Ensemble(flags.known(), flags.ensemble or flags.snapshots > 1)
    report: Report | PairsReport
    if flags.pairs is not None:
        report = score_pairs(models, flags.pairs)
        lines = pairs_table(report, flags.worst)
    else:
        max_windows, units = flags.max_windows, "lines" if flags.file else "texts"
        what = ", ".join(flags.file) or "texts of the command line"
        if not parts:
            what, parts, max_windows = own_split(models.models, flags.corpus, flags.languages, flags.split, max_windows)
            units = "verses"
        report = score_parts(models, what, units, parts, max_windows or 0)
        lines = table(report, flags.worst)
    print(json.dumps(asdict(report), ensure_ascii=False) if flags.json else "\n".join(lines))

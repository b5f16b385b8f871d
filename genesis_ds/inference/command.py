"""The commands that use a model: one function each, whose signature and docstring are its --help.

Heavy imports stay inside the functions, so that it answers at once.
"""

import json as json_format
import sys
from typing import Literal

from genesis_ds.errors import UserError


def generate(
    model: str,
    prompt: str | None = None,
    interactive: bool = False,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    stop: tuple[str, ...] = (),
    n: int = 1,
    seed: int | None = None,
    show_probs: bool = False,
    json: bool = False,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> None:
    """Let a trained model go on with a text.

    Args:
        model: A run's directory, a checkpoint, an export, or a file of weights.
        prompt: The beginning of a text; - reads it from the standard input.
        interactive: Read a beginning from every line that is typed, until Ctrl-D.
        max_new_tokens: Tokens that are written at most.
        temperature: By which logits are divided; 0 takes the likeliest token.
        top_k: Draw among the k likeliest tokens; 0 among all.
        top_p: Draw among the likeliest tokens that have this probability together.
        repetition_penalty: Makes tokens that are there already less likely; 1 does not.
        stop: Strings before which the text ends.
        n: Samples.
        seed: Makes the samples reproducible. None: another one each time.
        show_probs: Show the probability of every token, and of the likeliest in its place.
        json: Write one line of JSON for each prompt.
        checkpoint: Of a run: best, step-N, or a name. None: the newest good one.
        tokenizer: bytes, or the path of a SentencePiece model, in the place of the model's own.
        device: cpu or cuda. None: a GPU if there is one.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds generate runs/quickstart --prompt 'In the beginning'
        genesis-ds generate exported/quickstart --prompt - --n 3 --temperature 1 --top_p 0.9 --seed 1
        genesis-ds generate runs/quickstart --checkpoint step-150 --interactive
    """
    from genesis_ds.inference.generation import Request
    from genesis_ds.inference.loaded import load
    from genesis_ds.inference.texts import read_input
    from genesis_ds.inference.writing import as_text, converse, write
    from genesis_ds.model.sampling import Sampling

    if interactive == (prompt is not None):
        raise UserError("prompt: give --prompt TEXT, --prompt - for the standard input, or --interactive")
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    stops = [as_text(word, "stop") for word in stop]

    def request(text: str) -> Request:
        given = {} if seed is None else {"seed": seed}
        return Request(text, sampling, n=n, max_new_tokens=max_new_tokens, stop=stops, **given)

    if prompt is not None:
        text = read_input("-", "prompt").removesuffix("\n") if prompt == "-" else as_text(prompt, "prompt")
    first = request(" " if prompt is None else text)  # mistakes are said before the model is read
    loaded = load(model, checkpoint, tokenizer, device, trust)
    if not json:
        print(f"{loaded.path}: context {loaded.context} tokens, seed {first.seed}", file=sys.stderr)
    if interactive:
        converse(lambda typed: write(loaded, request(typed), as_json=json, show_probs=show_probs))
    else:
        write(loaded, first, as_json=json, show_probs=show_probs)


def score(
    models: tuple[str, ...],
    text: tuple[str, ...] = (),
    file: tuple[str, ...] = (),
    pairs: str | None = None,
    corpus: str | None = None,
    split: Literal["val_chapter", "val_book", "train_subset"] = "val_chapter",
    languages: tuple[str, ...] = (),
    max_windows: int | None = None,
    ensemble: bool = False,
    worst: int = 5,
    json: bool = False,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> None:
    """Score texts by trained models: bits per byte and perplexity, by language, book and verse, the worst first.

    Args:
        models: Runs' directories, checkpoints, exports or files of weights. Each is judged on the same text.
        text: Texts to score.
        file: Files to score, line by line; - is the standard input.
        pairs: A file of lines better<TAB>worse: how often the better text is the likelier one.
        corpus: A corpus to score. None: the first model's own.
        split: Which verses of the corpus; train_subset is a part of the training text.
        languages: Of the corpus. None: those of the first model's run in its own corpus, all in another.
        max_windows: Windows of each language that are scored, evenly spaced; 0 all. None: all of a validation split, of
            train_subset as many as in evaluations of the run.
        ensemble: Judge the mean of the models' probabilities too.
        worst: How many of the worst books and verses are shown.
        json: Write all of it as JSON.
        checkpoint: Of a run: best, step-N, or a name. None: the newest good one.
        tokenizer: bytes, or the path of a SentencePiece model, in the place of the models' own.
        device: cpu or cuda. None: a GPU if there is one.
        trust: Run code that their files hold, if they do.

    Examples:
        genesis-ds score runs/quickstart
        genesis-ds score runs/quickstart --text 'In the beginning God created the heaven and the earth.'
        genesis-ds score runs/quickstart runs/deep_50m --split val_book --ensemble --json
        genesis-ds score runs/quickstart --pairs pairs.tsv
    """
    from genesis_ds.config.checks import require_count
    from genesis_ds.inference.loaded import load
    from genesis_ds.inference.score_table import pairs_table, table
    from genesis_ds.inference.scoring import Ensemble, own_split, score_pairs, score_parts
    from genesis_ds.inference.texts import of_file, of_texts
    from genesis_ds.inference.writing import as_text

    require_count("worst", worst)
    require_count("max_windows", max_windows or 0)
    if sum([bool(text or file), pairs is not None, bool(corpus)]) > 1:
        raise UserError("score: give --text and --file, or --pairs, or --corpus, and not several of them")
    parts = of_texts([as_text(word, "text") for word in text]) + [of_file(path) for path in file]
    loaded = [load(path, checkpoint, tokenizer, device, trust) for path in models]
    judges = Ensemble(loaded, ensemble)
    if pairs is not None:
        report = score_pairs(judges, pairs)
        lines = pairs_table(report, worst)
    else:
        what, units_are = ", ".join(file) or "texts of the command line", "lines" if file else "texts"
        if not parts:
            units_are = "verses"
            what, parts, max_windows = own_split(loaded[0], corpus, languages, split, max_windows)
        report = score_parts(judges, what, units_are, parts, max_windows or 0)
        lines = table(report, worst)
    print(json_format.dumps(report, ensure_ascii=False) if json else "\n".join(lines))

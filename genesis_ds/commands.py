"""The commands that take no run: one function each, a few lines that call a package.

Signature and docstring are a command's --help. Heavy imports stay inside the functions, so that it answers at once.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genesis_ds.errors import UserError, require_file

if TYPE_CHECKING:
    from genesis_ds.corpus.verses import Corpus

SEQ_LEN = 256
"""Tokens of a window of `genesis-ds train` where nothing else is said."""


def corpus_fetch(languages: str = "en,es,ko", output: str = "corpora/bible") -> None:
    """Fetch public-domain Bible translations.

    Args:
        languages: Languages (en), translations (en-web) or codes of the source (4), separated by commas.
        output: Directory of the corpus; an earlier corpus there is replaced.

    Examples:
        genesis-ds corpus fetch
        genesis-ds corpus fetch --languages en-web,es --output corpora/mine
    """
    from genesis_ds.corpus.fetch import fetch
    from genesis_ds.corpus.storage import check_output, save_corpus

    check_output(Path(output))
    corpus = fetch([key.strip() for key in languages.split(",") if key.strip()])
    save_corpus(corpus, output)
    _report_new_corpus(output)


def corpus_import(path: str, output: str = "corpora/imported", language: str | None = None) -> None:
    """Import your own texts: bible_data.json folders, `Genesis 1:1 ...` lines, TSV, CSV, JSONL or eBible vref.

    Args:
        path: A file or folder in one of these formats.
        output: Directory of the corpus; an earlier corpus there is replaced.
        language: Language (BCP-47) of a file that does not say it itself.

    Examples:
        genesis-ds corpus import my_verses.tsv --language en --output corpora/mine
    """
    from genesis_ds.corpus.readers import import_path
    from genesis_ds.corpus.storage import save_corpus

    save_corpus(import_path(path, language=language), output)
    _report_new_corpus(output)


def corpus_synthetic(output: str = "corpora/synthetic", seed: int = 0) -> None:
    """Generate a small parallel corpus in three invented languages, for tests and offline demonstrations.

    Args:
        output: Directory of the corpus; an earlier corpus there is replaced.
        seed: Chooses the words and the sentences.

    Examples:
        genesis-ds corpus synthetic
        genesis-ds corpus synthetic --seed 1 --output corpora/other
    """
    from genesis_ds.corpus.storage import save_corpus
    from genesis_ds.corpus.synthetic import synthetic_corpus

    save_corpus(synthetic_corpus(seed), output)
    _report_new_corpus(output)


def corpus_inspect(
    path: str,
    tokenizer: str | None = None,
    split_seed: int = 0,
    seq_len: int = SEQ_LEN,
    verify: bool = False,
    token_sets: str = "token_sets",
) -> int:
    """Show verses, bytes, tokens, missing ids and the split of a corpus. Exit code 1: a token set of it is damaged.

    Args:
        path: Directory of the corpus.
        tokenizer: A trained model to count tokens with; without it, bytes are counted.
        split_seed: Chooses which chapters are validation.
        seq_len: Tokens of a window, the run's batch.seq_len.
        verify: Compare every byte of the token sets made of it with their manifests as well.
        token_sets: Where those are, the run's data.token_sets.

    Examples:
        genesis-ds corpus inspect corpora/bible
        genesis-ds corpus inspect corpora/bible --verify true
    """
    from genesis_ds.config.checks import require_positive
    from genesis_ds.corpus.storage import load_corpus
    from genesis_ds.data.token_set import open_token_set, token_sets_of

    require_positive("seq_len", seq_len)
    corpus = load_corpus(path)
    print(Path(path))
    _report_corpus(corpus, tokenizer=tokenizer, split_seed=split_seed, seq_len=seq_len)
    exit_code = 0
    for directory in token_sets_of(corpus, Path(token_sets)) if verify else ():
        try:
            open_token_set(directory)
            print(f"{directory}: good")
        except UserError as error:
            print(error)
            exit_code = 1
    return exit_code


def tokenizer_train(recipe: str) -> None:
    """Train a tokenizer of byte pairs or of characters on the training split of a corpus.

    Args:
        recipe: A YAML file, such as tokenizers/bpe_8k.yaml.

    Examples:
        genesis-ds tokenizer train tokenizers/bpe_8k.yaml
        genesis-ds tokenizer train tokenizers/char.yaml
    """
    from genesis_ds.corpus.splits import TIERS, split_verses
    from genesis_ds.corpus.storage import load_corpus
    from genesis_ds.tokenizer.inspection import describe
    from genesis_ds.tokenizer.recipe import load_recipe
    from genesis_ds.tokenizer.sentencepiece import check_output, train_sentencepiece

    plan = load_recipe(recipe)
    check_output(plan.output)
    corpus = load_corpus(plan.corpus)
    split = split_verses(corpus)
    texts = {}
    for language in plan.languages:
        translation = corpus.translation(language)
        rows = translation.present & (split.tier_of(translation.verse_ids) == TIERS.index("train"))
        texts[language] = [translation.texts[row] for row in rows.nonzero()[0]]
    verses = (text for language in texts.values() for text in language)
    try:
        trained = train_sentencepiece(
            verses, plan.output, plan.vocab_size, plan.character_coverage, model_type=plan.model_type
        )
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from error
    print(f"{plan.output}\n{describe(trained, texts)}")


def tokenizer_inspect(path: str | None = None, corpus: str | None = None, text: str | None = None) -> None:
    """Show what a tokenizer does to a corpus or a text.

    Args:
        path: A trained model; without it, the byte tokenizer.
        corpus: Directory of a corpus to count.
        text: A text to cut into pieces.

    Examples:
        genesis-ds tokenizer inspect --text 'In the beginning'
        genesis-ds tokenizer inspect --path tokenizers/bpe_8k/tokenizer.model --corpus corpora/bible
    """
    from genesis_ds.corpus.storage import load_corpus
    from genesis_ds.tokenizer import open_tokenizer
    from genesis_ds.tokenizer.inspection import describe

    translations = load_corpus(corpus).translations if corpus else ()
    texts = {t.name: [t.texts[row] for row in t.present.nonzero()[0]] for t in translations}
    if text:  # in a locale that is not of UTF-8, its bytes have come as surrogates
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    print(describe(open_tokenizer(path), texts, [text] if text else []))


def checkpoint_list(directory: str) -> None:
    """Show the checkpoints of a run, newest first.

    Args:
        directory: The run's directory, or its checkpoints/.

    Examples:
        genesis-ds checkpoint list runs/quickstart
    """
    from genesis_ds.checkpoint.command import table

    print(*table(directory), sep="\n")


def checkpoint_verify(directory: str) -> int:
    """Read every byte of the checkpoints and compare with their manifests. Exit code 1: something is wrong.

    Args:
        directory: The run's directory, its checkpoints/, or one checkpoint.

    Examples:
        genesis-ds checkpoint verify runs/quickstart
    """
    from genesis_ds.checkpoint.command import verify

    lines, good = verify(directory)
    print(*lines, sep="\n")
    return 0 if good else 1


def checkpoint_prune(directory: str, keep_last: int | None = None) -> None:
    """Remove the checkpoints that the run's own policy does not keep, and what crashes have left.

    Args:
        directory: The run's directory, or its checkpoints/.
        keep_last: How many of the newest stay, in place of the run's own number.

    Examples:
        genesis-ds checkpoint prune runs/quickstart --keep_last 1
    """
    from genesis_ds.checkpoint.command import prune_directory

    for line in prune_directory(directory, keep_last):
        print(line)


def checkpoint_consolidate(directory: str, trust: bool = False) -> None:
    """Write the whole fp32 weights of a checkpoint into one safetensors file beside it.

    Args:
        directory: A checkpoint; or a run's directory, whose newest good one is taken.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint consolidate runs/quickstart
    """
    from genesis_ds.checkpoint.command import consolidate

    print(consolidate(directory, trust))


def checkpoint_export(
    source: str,
    output: str,
    to: Literal["safetensors", "hf"] = "safetensors",
    dtype: Literal["fp32", "bf16"] = "fp32",
    trust: bool = False,
) -> None:
    """Write a trained model as one directory, with its tokenizer and a card.

    Args:
        source: A run's directory, whose newest good checkpoint is taken; a checkpoint; a file of weights alone; another
            export; a file step_N.pt of the earlier Genesis Arbiter code.
        output: The directory to make.
        to: safetensors is for genesis_ds; hf for transformers and what is built on it, without the tasks' heads.
        dtype: Of the weights.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint export runs/quickstart exported/quickstart
        genesis-ds checkpoint export runs/quickstart exported/hf --to hf
        genesis-ds checkpoint export runs/deep_50m exported/half --to hf --dtype bf16
    """
    from genesis_ds.checkpoint.command import export_model

    print(*export_model(source, output, to, dtype, trust=trust), sep="\n")


def checkpoint_import(source: str, output: str, n_heads: int | None = None, trust: bool = False) -> int:
    """Make an export of a checkpoint of the earlier Genesis Arbiter code, and compare the logits of both.

    Exit code 1: they differ by more than rounding.

    Args:
        source: A file step_N.pt, or a directory with model.safetensors or training_state.pt.
        output: The directory to make, as checkpoint export does.
        n_heads: Number of heads, where the checkpoint does not say it.
        trust: Run code that its files hold, if they do.

    Examples:
        genesis-ds checkpoint import checkpoints/step_100.pt exported/earlier
    """
    from genesis_ds.checkpoint.command import import_legacy

    lines, good = import_legacy(Path(source), Path(output), n_heads, trust=trust)
    print(*lines, sep="\n")
    return 0 if good else 1


def presets() -> None:
    """List the named model shapes and their parameter counts with the byte vocabulary.

    Examples:
        genesis-ds presets
    """
    from genesis_ds.config import ModelShape
    from genesis_ds.config.presets import PRESETS

    print(f"{'preset':<18}{'layers':>7}{'dim':>6}{'heads':>6}{'ffn':>6}  {'norm':<9}{'parameters':>14}")
    for name, shape in PRESETS.items():
        model = ModelShape(**shape, vocab_size=260)
        sizes = f"{model.n_layers:>7}{model.dim:>6}{model.n_heads:>6}{model.intermediate_size:>6}"
        print(f"{name:<18}{sizes}  {model.norm:<9}{model.n_parameters:>14,}")


def config_convert(path: str, output: str | None = None, set: tuple[str, ...] = (), strict: bool = False) -> int:
    """Make a run's YAML of a TOML of the earlier Genesis Arbiter code. Exit code 1: --strict, and something is lost.

    It prints what becomes of every key.

    Args:
        path: The TOML.
        output: The YAML to write. None: FILE.yaml in this directory.
        set: NAME=VALUE for a placeholder {{NAME}} of a template; give as many as it has.
        strict: Write nothing where a key has no counterpart.

    Examples:
        genesis-ds config convert genesis_config.toml --output mine.yaml
        genesis-ds config convert template.toml --set LAYERS=24 --set DIM=384 --strict
    """
    from genesis_ds.config.convert.command import convert_file

    lines, written = convert_file(path, Path(output or f"{Path(path).stem}.yaml"), set, strict=strict)
    print(*lines, sep="\n")
    return 0 if written else 1


def build(operation: Literal["cpu_adam", "async_io", "pin_memory"]) -> None:
    """Compile a DeepSpeed operation ahead of the first run (1-2 minutes).

    Args:
        operation: cpu_adam is the offloaded optimizer, async_io serves NVMe offload, pin_memory exact pinning.

    Examples:
        genesis-ds build cpu_adam
    """
    from genesis_ds.engine import compiled_ops

    compiled_ops.build(operation)
    print(f"{operation} is built")


def grokking(curves: str, plot: str | None = None, rule: Literal["states", "window"] = "states") -> None:
    """Find memorisation, plateaus and grokking in learning curves, one JSON line for each event.

    Args:
        curves: A CSV with the columns step, train_loss, val_loss and, where there are any, train_acc, val_acc, lr,
            memorised (share of the training examples known by heart), changed (what of the run was changed); or a
            run's metrics.jsonl.
        plot: Draw the curves and their events into this file, such as curves.png.
        rule: states is the state machine; window only asks whether the mean validation loss of 500 evaluations is
            10 % below that of the 500 before.

    Examples:
        genesis-ds grokking runs/modular_addition/metrics.jsonl --plot curves.png
    """
    from genesis_ds.analysis.curve_plot import plot as draw
    from genesis_ds.analysis.curves import curves_of, events_of, read_csv
    from genesis_ds.analysis.grokking import GrokkingDetector
    from genesis_ds.analysis.window_rule import WindowRule
    from genesis_ds.hooks.write.json_lines import read_numbered

    path = Path(curves)
    require_file(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a CSV of curves or a run's metrics.jsonl")
    found = curves_of(read_numbered(path), path) if path.suffix == ".jsonl" else {path.stem: read_csv(path)}
    if not found:
        raise UserError(f"{path}: no curve; a run writes some where grokking.rule is not none")
    detector = GrokkingDetector if rule == "states" else WindowRule
    judged = {name: (points, events_of(detector(), points)) for name, points in found.items()}
    if plot:
        draw(judged, Path(plot))
    for name, (_, events) in judged.items():
        for event in events:
            print(json.dumps({"curve": name, **vars(event)}))
    if not any(events for _, events in judged.values()):
        print(f"{path}: no event", file=sys.stderr)


def _report_corpus(
    corpus: "Corpus", *, tokenizer: str | None = None, split_seed: int = 0, seq_len: int = SEQ_LEN
) -> int:
    """Print what a corpus holds. Return the tokens of its longest training stream."""
    import numpy as np

    from genesis_ds.corpus.inspect import describe, format_description
    from genesis_ds.corpus.splits import split_verses
    from genesis_ds.data.coverage import gaps, n_windows, stream_sizes
    from genesis_ds.data.token_set import select_translations
    from genesis_ds.tokenizer import open_tokenizer

    split, counter = split_verses(corpus, split_seed), open_tokenizer(tokenizer)
    tokens, windows, sizes = {}, {}, {}
    for label, translation in select_translations(corpus, []).items():
        lengths = np.array([len(ids) for ids in counter.encode_many(translation.texts)])
        sizes[label] = stream_sizes(translation, lengths, split)
        tokens[translation.name] = int(lengths.sum())
        windows[translation.name] = n_windows(sizes[label]["train"], seq_len)
    print(format_description(describe(corpus, split, tokens, windows), seq_len))
    for notice in [*gaps(sizes, seq_len), *corpus.notices]:
        print(f"notice: {notice}")
    return max(of_tier["train"] for of_tier in sizes.values())


def _report_new_corpus(path: str) -> None:
    from genesis_ds.corpus.inspect import format_shared_verse
    from genesis_ds.corpus.storage import load_corpus
    from genesis_ds.data.coverage import n_windows

    corpus = load_corpus(path)
    print(Path(path))
    longest = _report_corpus(corpus)
    print(format_shared_verse(corpus))
    if not longest:
        print("it has no training text: every verse is in a book or chapter of validation, or dropped")
        return
    window = "" if n_windows(longest, SEQ_LEN) else f" --batch.seq_len {longest - 1}"
    print(f"train on it: genesis-ds train --data.corpus {shlex.quote(path)}{window}")

"""The commands of a corpus and a tokenizer."""

import shlex
from pathlib import Path

from genesis_ds.errors import UserError

SEQ_LEN = 256
"""Tokens of a window of `genesis-ds train` where nothing else is said."""


def corpus_fetch(languages: str = "en,es,ko", output: str = "corpora/bible") -> None:
    """Fetch Bible translations in the public domain or CC BY-SA 4.0, and a Korean one not to be redistributed.

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


def corpus_synthetic(output: str = "corpora/synthetic", seed: int = 0, languages: int = 3) -> None:
    """Generate a small parallel corpus in invented languages, for tests and offline demonstrations.

    Args:
        output: Directory of the corpus; an earlier corpus there is replaced.
        seed: Chooses the words and the sentences.
        languages: How many.

    Examples:
        genesis-ds corpus synthetic
        genesis-ds corpus synthetic --seed 1 --output corpora/other
        genesis-ds corpus synthetic --languages 33 --output corpora/many
    """
    from genesis_ds.corpus.storage import save_corpus
    from genesis_ds.corpus.synthetic import synthetic_corpus

    save_corpus(synthetic_corpus(seed, n_languages=languages), output)
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
    from genesis_ds.data.coverage import report
    from genesis_ds.data.token_set import open_token_set, token_sets_of
    from genesis_ds.tokenizer import open_tokenizer

    require_positive("seq_len", seq_len)
    corpus = load_corpus(path)
    lines, _ = report(corpus, open_tokenizer(tokenizer), split_seed, seq_len)
    print(Path(path), *lines, sep="\n")
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
    from genesis_ds.tokenizer.training import train_by_recipe

    print(train_by_recipe(recipe))


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


def _report_new_corpus(path: str) -> None:
    from genesis_ds.corpus.inspect import format_shared_verse
    from genesis_ds.corpus.storage import load_corpus
    from genesis_ds.data.coverage import n_windows, report
    from genesis_ds.tokenizer import open_tokenizer

    corpus = load_corpus(path)
    lines, longest = report(corpus, open_tokenizer(None), split_seed=0, seq_len=SEQ_LEN)
    print(Path(path), *lines, format_shared_verse(corpus), sep="\n")
    if not longest:
        print("it has no training text: every verse is in a book or chapter of validation, or dropped")
        return
    window = "" if n_windows(longest, SEQ_LEN) else f" --batch.seq_len {longest - 1}"
    print(f"train on it: genesis-ds train --data.corpus {shlex.quote(path)}{window}")

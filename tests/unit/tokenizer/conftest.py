"""A small BPE model trained once on invented text."""

from pathlib import Path

import pytest
from tokenizer_texts import invented

from genesis_ds.tokenizer.bytes import ByteTokenizer
from genesis_ds.tokenizer.sentencepiece import BpeTokenizer, train_bpe


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "made" / "tokenizer.model"
    train_bpe(invented(300), path, vocab_size=400, character_coverage=1.0)
    return path


@pytest.fixture(scope="session", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest, model_path: Path) -> ByteTokenizer | BpeTokenizer:
    return ByteTokenizer() if request.param == "bytes" else BpeTokenizer.load(model_path)

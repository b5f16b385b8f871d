"""Small models of byte pairs and of characters, trained once on invented text."""

from pathlib import Path

import pytest
from tokenizer_texts import invented

from genesis_ds.tokenizer import Tokenizer, load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "made" / "tokenizer.model"
    train_sentencepiece(invented(300), path, vocab_size=400, character_coverage=1.0)
    return path


@pytest.fixture(scope="session")
def char_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("char") / "tokenizer.model"
    train_sentencepiece(invented(300), path, model_type="char")
    return path


@pytest.fixture(scope="session", params=["bytes", "char", "bpe"])
def tokenizer(request: pytest.FixtureRequest, model_path: Path, char_model_path: Path) -> Tokenizer:
    paths = {"bytes": None, "char": char_model_path, "bpe": model_path}
    return load_tokenizer(request.param, paths[request.param])

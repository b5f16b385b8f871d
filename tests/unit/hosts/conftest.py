import pytest

from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with a corpus, in which nothing is built yet."""
    save_corpus(synthetic_corpus(), tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    (tmp_path / "built").mkdir()
    return tmp_path

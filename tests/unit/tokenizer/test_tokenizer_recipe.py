"""A recipe is read strictly."""

from pathlib import Path

import pytest

from genesis_ds.errors import UserError
from genesis_ds.tokenizer.recipe import Recipe, load_recipe

GOOD = "name: small\nlanguages: [en, ko]\ncorpus: corpora/x\noutput: out/m.model\n"
SHIPPED = sorted((Path(__file__).parents[3] / "tokenizers").glob("*.yaml"))


def test_values_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD + "character_coverage: 1\n")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe == Recipe("small", ("en", "ko"), Path("corpora/x"), Path("out/m.model"), 8192, 1.0)


def test_norwegian_is_a_language_and_a_tilde_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = GOOD.replace("ko", "no").replace("corpora/x", "~/x").replace("out/m.model", "~/m.model")
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.languages == ("en", "no")
    assert (recipe.corpus, recipe.output) == (Path("/home/me/x"), Path("/home/me/m.model"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.output == Path("tokenizers") / path.stem / "tokenizer.model"


def test_a_recipe_ships() -> None:
    assert SHIPPED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "vocabsize: 300", "unknown key 'vocabsize'; did you mean 'vocab_size'"),
        ("name: x", "missing keys: languages, corpus, output"),
        (GOOD + "vocab_size: big", "vocab_size: must be a whole number, got 'big'"),
        (GOOD + "vocab_size: true", "vocab_size: must be a whole number, got True"),
        (GOOD + "vocab_size: 100", "vocab_size: 100 must be above 260"),
        (GOOD + "vocab_size: 9999999999", r"vocab_size: 9999999999 must be above 260 .* and below 2\*\*31"),
        (GOOD + "character_coverage: 0.5", "character_coverage: 0.5 must be from 0.98 to 1"),
        (GOOD + "model_type: chars", "model_type: unknown 'chars'; did you mean 'char'"),
        (GOOD + "model_type: unigram", "model_type: unknown 'unigram'; valid: bpe, char"),
        (GOOD + "model_type: 3", "model_type: unknown '3'; valid: bpe, char"),
        (GOOD + "model_type: char\ncharacter_coverage: 1.0", "line 6: character_coverage: is of model_type bpe alone"),
        (GOOD + "character_coverage: high", "character_coverage: must be a number"),
        (GOOD.replace("[en, ko]", "en"), "languages: must be a list such as"),
        (GOOD.replace("[en, ko]", "[]"), "languages: name at least one"),
        (GOOD.replace("[en, ko]", "[en, en]"), "languages: one is named twice"),
        (GOOD.replace("[en, ko]", "[true]"), r"languages: must be text, got True \(quote it"),
        (GOOD + "name: other", "'name' stands twice, lines 1 and 5"),
        (GOOD + "vocab_size:", "'vocab_size' has no value"),
        (GOOD.replace("out/m.model", "3"), "output: must be text, got 3"),
        ("- a", "must hold lines of `key: value`"),
        ("a: [", "not valid YAML"),
        ("vocab_size: " + "9" * 5000, "more than 30 digits"),
        ("a: " + "[" * 5000, "more than 100 levels deep"),
    ],
)
def test_a_mistake_names_file_and_key_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'r.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_the_model_does_not_replace_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD.replace("out/m.model", str(tmp_path / "r.yaml")))
    with pytest.raises(UserError, match="line 4: output: is this recipe"):
        load_recipe(tmp_path / "r.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: No such file or directory; see tokenizers/README"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: not UTF-8 text"):
        load_recipe(tmp_path / "latin.yaml")

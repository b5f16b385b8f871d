"""A tokenizer trained by a recipe."""

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.errors import UserError
from genesis_ds.tokenizer.inspection import describe
from genesis_ds.tokenizer.recipe import load_recipe
from genesis_ds.tokenizer.sentencepiece import check_output, train_sentencepiece


def train_by_recipe(path: str) -> str:
    """Train the tokenizer of the recipe at a path on the training split of its corpus; return what it does to that.

    Raises UserError, naming the recipe, for settings that its text cannot be trained with.
    """
    plan = load_recipe(path)
    check_output(plan.output)
    corpus = load_corpus(plan.corpus)
    split = split_verses(corpus)
    texts = {}
    for language in plan.languages:
        translation = corpus.translation(language)
        texts[language] = [translation.texts[row] for row in split.rows("train", translation)]
    verses = (text for language in texts.values() for text in language)
    try:
        trained = train_sentencepiece(
            verses, plan.output, plan.vocab_size, plan.character_coverage, model_type=plan.model_type
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return f"{plan.output}\n{describe(trained, texts)}"

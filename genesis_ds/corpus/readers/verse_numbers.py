"""The running text of a chapter, split on the verse numbers in it."""

import re

_NUMBER = re.compile(r"(?<![^\s\[({\"'\u201c\u2018\u00ab])(\d{1,3})[.:)\]]?\s+")
_MAX_PREFIX = 300


def split_numbered(text: str, chapter: int) -> list[tuple[int, str]] | None:
    """Split a chapter into [(verse, text), ...], verses 1 to n without a gap; None where the numbers do not say so.

    A number that stands alone may begin a verse unless a letter precedes it and a lower-case letter follows it
    ("had 3 sons"); of two that could be the same verse, the one after punctuation or a line break counts. The
    first may be the chapter's own number, as in printed Bibles. At least two verses, at most 300 characters (a
    title, kept in verse 1) before the first, and none of the next few numbers left over after the last: a chapter
    whose numbering has a gap is not split.
    """
    candidates = _candidates(text, chapter)
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for verse, start, end, score in candidates:
        if verse - 1 in best:
            total, spans = best[verse - 1]
            if verse not in best or total + score > best[verse][0]:
                best[verse] = (total + score, [*spans, (start, end)])
    last = max(best)
    spans = best[last][1]
    if last < 2 or spans[0][0] > _MAX_PREFIX:
        return None
    if any(verse in (last + 2, last + 3) and start > spans[-1][0] for verse, start, _, _ in candidates):
        return None
    stops = [start for start, _ in spans[1:]] + [len(text)]
    verses = [text[end:stop].strip() for (_, end), stop in zip(spans, stops, strict=True)]
    verses[0] = f"{text[: spans[0][0]].strip()} {verses[0]}".strip()
    return list(enumerate(verses, 1))


def _candidates(text: str, chapter: int) -> list[tuple[int, int, int, int]]:
    """Return (verse, start, end, score) of the numbers that may begin a verse, in order; score 2 after punctuation."""
    found: list[tuple[int, int, int, int]] = []
    for match in _NUMBER.finditer(text):
        before = text[: match.start()].rstrip(" ")[-1:]
        after = text[match.end() : match.end() + 1]
        number = int(match[1])
        if not found and number == chapter and match.start() <= _MAX_PREFIX:
            number = 1
        if not (before.isalnum() and after.islower()):
            found.append((number, match.start(), match.end(), 1 if before.isalnum() else 2))
    return found

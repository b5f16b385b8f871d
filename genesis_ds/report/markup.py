"""HTML made of elements: every text is escaped, as what is in a page may be a user's."""

import html
import re
from collections.abc import Iterable

EMPTY = {"meta"}
"""Elements that have no end."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is HTML already."""


def element(tag: str, /, *content: str, **attributes: str) -> Html:
    """Return an element. class_ is the attribute class, and data_x is data-x; what is no Html is escaped."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    said = "".join(f' {key}="{escaped(value)}"' if value else f" {key}" for key, value in given.items())
    inner = "".join(map(escaped, content))
    return Html(f"<{tag}{said}>" if tag in EMPTY else f"<{tag}{said}>{inner}</{tag}>")


def escaped(text: str) -> Html:
    """Return a text as HTML; control characters and lone surrogates, which nobody sees, as \\x15."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(visible(text)))


def visible(text: str) -> str:
    """Return a text with control characters as \\x15; ends of lines and tabs stay."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "", class_: str = "") -> Html:
    """Return a table whose first column names the rows, in a box that scrolls where it is wide."""
    line = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = []
    for first, *rest in rows:
        body.append(element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest)))
    about = [element("caption", caption)] if caption else []
    inner = element("table", *about, element("thead", line), element("tbody", *body))
    return element(
        "div", inner, class_=f"wide {class_}".strip(), tabindex="0", role="region", aria_label=caption or "table"
    )


def folded(summary: str, *content: str, is_open: bool = False) -> Html:
    """Return what is shown once its summary is clicked."""
    given = {"open": ""} if is_open else {}
    return element("details", element("summary", summary), *content, **given)

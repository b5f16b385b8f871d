"""From a Bible in Zefania XML to a table that `genesis-ds corpus import` reads.

python zefania_to_table.py bible.xml en bible.jsonl
"""

import json
import sys
from collections.abc import Iterator
from xml.etree import ElementTree


def rows(xml: str, language: str) -> Iterator[dict[str, str]]:
    """Yield a row for each verse of the file."""
    for book in ElementTree.parse(xml).iter("BIBLEBOOK"):
        for chapter in book.iter("CHAPTER"):
            for verse in chapter.iter("VERS"):
                yield {
                    "language": language,
                    "book": book.attrib["bnumber"],
                    "chapter": chapter.attrib["cnumber"],
                    "verse": verse.attrib["vnumber"],
                    "text": "".join(verse.itertext()),
                }


if __name__ == "__main__":
    source, of_language, table = sys.argv[1:]
    with open(table, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(source, of_language))

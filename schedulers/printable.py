"""Text of strangers made fit for a terminal: what is left of it shows, and commands nothing.

A terminal obeys control characters: ESC sequences set the window's title and the clipboard or move the cursor over
what stands there, a carriage return writes a line anew, and marks of direction show letters in another order than
they have. Titles, texts of nodes, cards of files and messages of servers may hold all of these.
"""

from __future__ import annotations

import unicodedata

STAND_IN = "\N{REPLACEMENT CHARACTER}"
JOINERS = (
    "\u00ad\u200b\u200c\u200d\u2060\ufeff"  # between letters; they show nothing and do nothing
)


def printable(text: object) -> str:
    """``str(text)`` with a stand-in for every character that shows nothing by itself; line breaks and tabs stay."""
    plain = str(text).replace("\r\n", "\n")
    if plain.replace("\n", "").replace("\t", "").isprintable():
        return plain
    return "".join(
        char if char in "\n\t" or char.isprintable() else _instead(char) for char in plain
    )


def one_line(text: object) -> str:
    """``printable`` with spaces for line breaks and tabs: it cannot look like a line of its own."""
    return printable(text).replace("\n", " ").replace("\t", " ")


def _instead(char: str) -> str:
    if char in JOINERS:
        return ""
    return " " if unicodedata.category(char) == "Zs" else STAND_IN

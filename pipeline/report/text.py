"""Strings of a report. Ids, names and captions come from files of strangers: none is markup, and each is one line."""

from __future__ import annotations

import html

from cache.errors import on_one_line

LONGEST = 48  # characters of a name in a figure


def escaped(text: object) -> str:
    """`text` for HTML, in an element or a quoted attribute; what cannot be printed is written as escapes."""
    return html.escape("\n".join(on_one_line(line) for line in str(text).split("\n")))


def label(text: object, longest: int = LONGEST) -> str:
    """`text` for a figure: one printable line, cut where it is long."""
    line = on_one_line(str(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"

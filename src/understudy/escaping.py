"""Untrusted names, of files and classes, as text for a terminal, a Markdown file or a spreadsheet."""

from __future__ import annotations

import re

# Controls (C0, C1), the marks, embeddings, overrides and isolates of bidirectional text, separators of lines and
# paragraphs, byte order marks, and halves of surrogate pairs, which stand for bytes of a file name that are no Unicode.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_IN_LINE = re.compile(rf"(?!\n)[{_CONTROLS}]")
_MARKDOWN = re.compile(r"([\\`*_<>\[\]|#&$~]|:(?=//)|(?<=www)\.)")
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Control characters, and those that reorder text, as escapes.

    Args:
        lines: keep line breaks.

    >>> printable("\x1b[31mred"), printable("a\nb"), printable("naïve 猫")
    ('\\x1b[31mred', 'a\\nb', 'naïve 猫')
    """
    return (_CONTROL_IN_LINE if lines else _CONTROL).sub(lambda match: repr(match[0])[1:-1], text)


def json_escaped(text: str) -> str:
    r"""JSON with the same characters as escapes of JSON, so that it holds the same values and can be printed.

    >>> json_escaped('"a\x9b"')
    '"a\\u009b"'
    """
    return _CONTROL_IN_LINE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def markdown(text: str) -> str:
    r"""Text in one line of Markdown, also of a table, that renders as it is: nothing in it is markup, HTML or a link.

    >>> print(markdown("<img src=x> *bold* a|b"))
    \<img src=x\> \*bold\* a\|b
    """
    return _MARKDOWN.sub(r"\\\1", printable(text))


def markdown_code(text: str) -> str:
    r"""Text as a code span of Markdown that can stand in a table.

    >>> print(markdown_code("cnn:16-32"), markdown_code("a`b"))
    `cnn:16-32` ``a`b``
    """
    text = printable(text) or " "
    if "|" in text:  # it would end the cell, and an escape for it would be shown outside of tables
        return markdown(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def csv_cell(text: str) -> str:
    """Text as a cell of a CSV file that no spreadsheet takes for a formula: if it begins like one, after a quote.

    >>> csv_cell("=cmd|' /C calc'!A0"), csv_cell("-1.jpg"), csv_cell("a-1.jpg")
    ("'=cmd|' /C calc'!A0", "'-1.jpg", 'a-1.jpg')
    """
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)

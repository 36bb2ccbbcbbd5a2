"""
The text of an HTML page: what goes into the text part of a mail that has none.

The standard library's parser and no other: the same row must make the same bytes on every attempt, also after an upgrade between two of them.
html2text would bring its GPL, inscriptis lxml.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = frozenset(("address", "article", "aside", "body", "center", "dd", "div", "dl", "dt", "figure", "footer", "form", "header", "li", "main", "nav", "section", "tr"))
PARAGRAPHS = frozenset(("blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"))
SILENT = frozenset(("script", "style", "template", "title"))
_BLANK = re.compile("[ \t\r\n\f]+")  # of HTML: a non-breaking space is none


def text_of(html: str) -> str:
    """Paragraphs, lists, links with their addresses, pictures by their alt text; empty if there is nothing to read."""
    page = _Page()
    page.feed(html)
    page.close()
    page.end_link()
    lines = "".join(page.out).replace("\xa0", " ").split("\n")
    return re.sub("\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n")


class _Page(HTMLParser):
    """Collects the words in `out`, with the line breaks that stand between blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.silent = self.kept = 0  # depth of elements that are not shown, of <pre>
        self.breaks = 0  # line ends owed before the next word
        self.lists: list[int | None] = []  # the next number of each open list, None of one with bullets
        self.link: tuple[str, int] | None = None  # the open link's address, and where its words begin

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in SILENT:
            self.silent += 1
        elif tag == "body":
            self.silent = 0
        elif tag == "br":
            self.write("\n")
        elif tag == "hr":
            self.breaks = 2
            self.write("-" * 20)
            self.breaks = 2
        elif tag == "img":
            self.handle_data(given.get("alt") or "")
        elif tag in ("td", "th"):
            self.handle_data(" ")
        elif tag == "a":
            self.end_link()
            self.link = ((given.get("href") or "").strip(), len(self.out))
        self._block(tag)
        if tag in ("ul", "ol"):
            self.lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            number = self.lists[-1] if self.lists else None
            self.write("  " * (len(self.lists) - 1) + (f"{number}. " if number else "- "))
            if number:
                self.lists[-1] = number + 1
        self.kept += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            self.silent = max(0, self.silent - 1)
        elif tag == "a":
            self.end_link()
        elif tag == "pre":
            self.kept = max(0, self.kept - 1)
        elif tag in ("ul", "ol") and self.lists:
            self.lists.pop()
        self._block(tag)

    def handle_data(self, data: str) -> None:
        if self.silent:
            return
        words = data.replace("\r", "") if self.kept else _BLANK.sub(" ", data)
        if not self.kept and words.startswith(" ") and (self.breaks or not self.out or self.out[-1].endswith((" ", "\n"))):
            words = words[1:]
        if words:
            self.write(words)

    def _block(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self.breaks = max(self.breaks, 1 if tag in ("ul", "ol") and self.lists else 2)
        elif tag in BLOCKS:
            self.breaks = max(self.breaks, 1)

    def write(self, words: str) -> None:
        if self.out and self.breaks:
            self.out.append("\n" * self.breaks)
        self.breaks = 0
        self.out.append(words)

    def end_link(self) -> None:
        """Write the address behind the words of the open link, unless they are the address."""
        if self.link is None:
            return
        (href, begin), self.link = self.link, None
        words = "".join(self.out[begin:]).strip()
        if re.match("(https?|mailto|tel):", href, re.IGNORECASE) and words not in (href, href.partition(":")[2], href.partition("://")[2].rstrip("/")):
            self.write(f" ({href})" if words and not self.breaks else href)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Skipped up to its >: of names it does not know (<![foo) Python's own would make an AssertionError."""
        return self.parse_bogus_comment(i, bool(report))

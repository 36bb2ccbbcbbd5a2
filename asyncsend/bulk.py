"""
A job for each line of a file: the table that is read line by line, the template that each line fills. No I/O but the reading, no clock.

`{{name}}` in a string of the template stands for the column of that name: escaped in a member `html`, as it is elsewhere, and
refused where it could break a header. A line has the same uid whenever it is read, so that a repeat adds only what is missing.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from asyncsend.errors import InvalidJob
from asyncsend.job import MAX_PAYLOAD_BYTES, members_of, no_constant
from asyncsend.text import printable

Values = Mapping[str, str]

# Members of a payload that become headers: what ends a line for some reader may not come into them from a file.
ONE_LINE = ("to", "subject", "from", "reply_to", "headers", "attachments")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLACE = re.compile(r"\{\{([^{}]*)\}\}")


class BadLine(ValueError):
    """A line that makes no job; the sentence says why."""


# ── the template ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Template:
    """
    A value of JSON whose strings hold `{{name}}`. InvalidJob if a place is not closed, stands in a member's name, or has no name.

    In a typed one a string that is nothing but a place becomes the value itself, which a Values that has more than text gives by `value`.
    """

    def __init__(self, members: Any, name: str = "the template", *, typed: bool = False) -> None:
        self.name, self.typed = name, typed
        self.names: set[str] = set()
        self.fill: Callable[[Values], Any] = self._compiled(members, ())

    def check(self, columns: tuple[str, ...]) -> None:
        """InvalidJob names what no column fills, or two do."""
        for name in sorted(self.names):
            if name not in columns:
                there = ", ".join(printable(column, 40) for column in columns[:20])
                raise InvalidJob(f"{self.name} wants {{{{{printable(name, 60)}}}}}, and there is no such column: the file has {there or 'none'}")
            if columns.count(name) > 1:
                raise InvalidJob(f"{self.name} wants {{{{{printable(name, 60)}}}}}, and two columns have that name: rename one")

    def _compiled(self, value: Any, path: tuple[str, ...]) -> Callable[[Values], Any]:
        if isinstance(value, dict):
            if any("{{" in name for name in value):
                raise InvalidJob(f"{self.name} has {{{{…}}}} in the name of a member: only values are filled")
            members = [(name, self._compiled(inner, (*path, name))) for name, inner in value.items()]
            return lambda line: {name: fill(line) for name, fill in members}
        if isinstance(value, list):
            items = [self._compiled(inner, path) for inner in value]
            return lambda line: [fill(line) for fill in items]
        if isinstance(value, str):
            return self._text(value, path)
        return lambda _line: value

    def _text(self, value: str, path: tuple[str, ...]) -> Callable[[Values], Any]:
        member = ".".join(path)
        one_line = bool(path) and path[0] in ONE_LINE and not (path[0] == "attachments" and path[-1] == "base64")
        pieces = _PLACE.split(value)  # text, name, text, name, … text
        literal, names = pieces[::2], [name.strip() for name in pieces[1::2]]
        if any("{{" in piece for piece in literal) or "{{{" in value or not all(names):
            raise InvalidJob(f"{self.name} has a {{{{ without name or }}}}, or a third {{, in {printable(member, 60) or 'it'}: write {{{{name}}}}")
        if one_line and _CONTROL.search("".join(literal)):
            raise InvalidJob(f"{self.name} has a line break or control character in {printable(member, 60)}, which belongs to a header")
        if not names:
            return lambda _line: value
        self.names.update(names)
        if self.typed and literal == ["", ""]:
            return lambda line: line.value(names[0])  # type: ignore[attr-defined]
        frame = "%s".join(piece.replace("%", "%%") for piece in literal)
        escape = html.escape if "html" in path else str

        def fill(line: Values) -> str:
            return frame % tuple([escape(line[name]) for name in names])

        def fill_header(line: Values) -> str:
            for name in names:
                if _CONTROL.search(line[name]):
                    raise BadLine(f"{printable(name, 60)} holds a line break or control character, and {member} belongs to a header: {printable(line[name], 60)!r}")
            return fill(line)

        return fill_header if one_line else fill


def template_of(text: str) -> Template:
    """The template in the text of a JSON object; InvalidJob says what is wrong with it."""
    try:
        return Template(members_of(text))
    except ValueError as error:
        raise InvalidJob(str(error).replace("the payload", "the template", 1)) from error


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Line(NamedTuple):
    """One record of the file; `wrong` says why it has no values."""

    number: int  # of its first line in the file, counted from 1
    raw: bytes  # as it stands there, without the end of its last line
    values: Values
    wrong: str | None = None


class Table:
    """
    The records of a file: CSV with a header, separated by comma, semicolon or tab as the header shows, or a JSON object a line.

    Read once, in the order of the file, and never more than one record at a time. `columns` are the header, or the members of
    the first object. InvalidJob where going on could mistake one thing for another.
    """

    def __init__(self, file: BinaryIO, *, json_lines: bool = False) -> None:
        self._physical = _Physical(file)
        self.columns: tuple[str, ...] = ()
        self._ahead: list[Line] = []
        first = self._physical.peek()
        if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InvalidJob("the file is UTF-16: save it as UTF-8, or convert it with `iconv -f utf-16 -t utf-8`")
        if json_lines or first.lstrip()[:1] == b"{":
            self._lines = self._json()
            for line in self._lines:
                self._ahead.append(line)
                if line.wrong is None:
                    self.columns = tuple(line.values)
                    break
                if len(self._ahead) == 1000:
                    raise InvalidJob(f"none of the first 1,000 lines is a JSON object: line {line.number}: {line.wrong}")
        else:
            self._lines = self._csv()

    def __iter__(self) -> Iterator[Line]:
        yield from self._ahead
        yield from self._lines

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._physical.bytes

    def _json(self) -> Iterator[Line]:
        physical = self._physical
        for text in physical:
            number, raw = physical.number, physical.taken()
            if not text.strip():
                continue
            try:
                yield Line(number, raw, _members(text))
            except ValueError as error:
                yield Line(number, raw, {}, str(error))

    def _csv(self) -> Iterator[Line]:
        header = self._physical.peek().decode("utf-8", "surrogateescape")
        bare = re.sub(r'"[^"]*"?', "", header)
        reader = csv.reader(self._physical, delimiter=max(",;\t", key=bare.count), strict=True)
        records = self._records(reader)
        for number, _, fields, wrong in records:
            if wrong:
                raise InvalidJob(f"line {number}, the header: {wrong}")
            self.columns = tuple(name.strip() for name in fields)
            break
        return self._by_column(records)

    def _by_column(self, records: Iterator[tuple[int, bytes, list[str], str | None]]) -> Iterator[Line]:
        columns = self.columns
        for number, raw, fields, wrong in records:
            if not wrong and len(fields) != len(columns):
                wrong = f"it has {len(fields)} fields, the header has {len(columns)}"  # noqa: PLW2901
            yield Line(number, raw, {} if wrong else dict(zip(columns, fields, strict=True)), wrong)

    def _records(self, reader: Iterator[list[str]]) -> Iterator[tuple[int, bytes, list[str], str | None]]:
        """Number, raw text, fields, and what is wrong with them."""
        physical = self._physical
        while True:
            number, wrong, fields = physical.number + 1, None, []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                wrong = f"its quotes are not as CSV has them ({error})"
                if "field limit" in str(error):
                    # What follows may be the inside of this field: it must not be taken for lines of their own.
                    raise InvalidJob(f"line {number}: a quote is opened there, and {csv.field_size_limit():,} characters later not closed: mend it, and call again") from error
            raw = physical.taken()
            if not fields and wrong is None:
                continue  # an empty line
            if wrong is None and raw.count(b'"') % 2:
                wrong = "a quote is opened and not closed, or stands alone"  # it may be the rest of a record that was cut
            if wrong is None and not raw.isascii():
                wrong = _no_utf8(raw)
            yield number, raw, fields, wrong


class _Physical:
    """The lines of a file as text, never more than a payload's length of them at once; what no UTF-8 has become surrogates."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.number = self.bytes = 0
        self._parts: list[bytes] = []
        self._length = 0
        self._next: bytes | None = None

    def peek(self) -> bytes:
        """The first line, which is still to come."""
        if self._next is None:
            self._next = self._read().removeprefix(b"\xef\xbb\xbf")
        return self._next

    def taken(self) -> bytes:
        """The bytes of the lines since it was asked last."""
        parts, self._parts, self._length = self._parts, [], 0
        return (parts[0] if len(parts) == 1 else b"".join(parts)).rstrip(b"\r\n")

    def _read(self) -> bytes:
        line = self.file.readline(MAX_PAYLOAD_BYTES + 1)
        self.bytes += len(line)
        return line

    def __iter__(self) -> _Physical:
        return self

    def __next__(self) -> str:
        line = self._read() if self._next is None else self._next
        self._next = None
        if not line:
            raise StopIteration
        self.number += 1
        self._length += len(line)
        if self._length > MAX_PAYLOAD_BYTES:
            raise InvalidJob(f"line {self.number} is longer than {MAX_PAYLOAD_BYTES:,} bytes, and so would be its payload: put large content in files")
        self._parts.append(line)
        return line.decode("utf-8", "surrogateescape")


def _no_utf8(raw: bytes) -> str | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 at its byte {error.start + 1}: convert the file with `iconv -f latin1 -t utf-8`"
    return None


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object as text: numbers as they are written, null as nothing. ValueError says what is no text."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str, parse_constant=no_constant)
        text.encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8: convert the file with `iconv -f latin1 -t utf-8`") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {printable(str(error), 120)}") from None
    if not isinstance(found, dict):
        raise ValueError('it is no JSON object: {"member": value}')  # noqa: TRY004 - one kind of error for all of it
    words = {None: "", True: "true", False: "false"}
    return {name.strip(): value if isinstance(value, str) else words[value] for name, value in found.items() if not isinstance(value, dict | list)}


# ── from line to uid ─────────────────────────────────────────────────────────────────────────────────────────────────


def uids(task: str, template: str, batch: str | None) -> Callable[[Line], str]:
    """What makes a line's uid: the same for the same task, template, batch, number and content of the line, and for nothing else."""
    known = hashlib.blake2b(json.dumps([task, template, batch]).encode(), digest_size=16)

    def uid(line: Line) -> str:
        mine = known.copy()
        mine.update(b"\0%d\0" % line.number + line.raw)
        return mine.hexdigest()

    return uid

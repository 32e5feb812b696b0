"""Exports of SQL databases: the rows of INSERT and of PostgreSQL's COPY, read and never executed.

Strings end at the next quote, two of them are one. In MySQL and MariaDB, which are told by their
backticks, and in PostgreSQL's E'' a backslash escapes (MySQL manual, 11.1.1; PostgreSQL manual,
4.1.2.2).
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Drop
from megafm.data.sources.jsonl import limit_of
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import CHUNK

_TOO_LARGE = object()
_SPACE = re.compile(r"\s+|--[^\n]*|#[^\n]*|/\*.*?\*/", re.S)
LOOKAHEAD = CHUNK // 2
_WORD = re.compile(r"[^\s'\"`(),;]+")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
_PREFIXES = ("e", "n", "x", "_binary")
_CONSTRAINTS = {"primary", "unique", "key", "constraint", "foreign", "check", "index", "fulltext"}


def sql_rows(stream: IO[bytes], place: Place) -> Iterator[tuple[str, Any]]:
    """Table and number, and fields of each row of the tables that have the text column.

    The columns are those that the statement names, or CREATE TABLE before it. Values are strings
    as they are written, None for NULL.

    Raises:
        Refused: truncated, where the file ends in a string, a row or a comment.
    """
    scanner = _Scanner(stream, limit_of(place))
    tables: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    while token := scanner.token():
        verb = token[1].lower() if token[0] == "word" else ""
        if verb == "create":
            _create(scanner, tables)
        elif verb in ("insert", "replace", "copy"):
            for table, columns, values in _statement(scanner, verb, tables):
                if place.source.table not in (None, table):
                    continue
                counts[table] = counts.get(table, 0) + 1
                key = f"{table}:{counts[table]}"
                yield key, _record(columns, values, place, key)
        elif token[0] != "end":
            scanner.skip_statement()


def _record(columns: list[str], values: list[Any], place: Place, key: str) -> Any:
    if place.source.fields.text not in columns:
        return Drop("no_text_column", place.id(key))
    if len(columns) != len(values):
        return Drop("bad_row", place.id(key))
    if _TOO_LARGE in values:
        return Drop("too_large", place.id(key))
    return dict(zip(columns, values, strict=True))


def _create(scanner: _Scanner, tables: dict[str, list[str]]) -> None:
    """Note the columns of CREATE TABLE; step over any other CREATE."""
    names: list[str] = []
    while (token := scanner.token()) and token[0] in ("word", "name"):
        names.append(token[1])
    if not token or token[1] != "(" or "table" not in map(str.lower, names[:-1]):
        if token and token[0] != "end":
            scanner.skip_statement()
        return
    columns, depth, first = [], 1, True
    while (token := scanner.token()) and token[0] != "end":
        kind, text = token
        if kind == "mark" and text in "()":
            depth += 1 if text == "(" else -1
        elif depth == 1 and first and (kind == "name" or str(text).lower() not in _CONSTRAINTS):
            columns.append(text)
        first = depth == 1 and (kind, text) == ("mark", ",")
    tables[_bare(names[-1])] = columns


def _statement(
    scanner: _Scanner, verb: str, tables: dict[str, list[str]]
) -> Iterator[tuple[str, list[str], list[Any]]]:
    """Table, columns and values of each row of a statement whose first word has been read."""
    table, named = "", []
    starts = ("from",) if verb == "copy" else ("values", "value")
    while (token := scanner.token()) and token[0] != "end":
        kind, text = token
        if kind == "mark" and text == "(":
            named = [value for value in scanner.values() if isinstance(value, str)]
        elif kind == "word" and text.lower() in starts and table:
            break
        elif kind == "name" or (kind == "word" and text.lower() not in ("into", "ignore")):
            table = _bare(text)
    columns = named or tables.get(table, [])
    if verb == "copy":
        scanner.skip_statement(line=True)
        yield from ((table, columns, row) for row in scanner.copied())
        return
    while token and (token := scanner.token()) and token[0] != "end":
        if token == ("mark", "("):
            yield table, columns, scanner.values()


def _bare(name: str) -> str:
    """The table of schema.table; what is not UTF-8 in it is written out, as it stands in ids."""
    return name.rpartition(".")[2].encode(errors="backslashreplace").decode()


class _Scanner:
    """The tokens of a dump, of which no more than a chunk and one value is held."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._stream = stream
        self._decoder = getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._max = max_bytes
        self._text = ""
        self._at = 0
        self._ended = False
        self._see(LOOKAHEAD)
        self._backslash = "`" in self._text

    def token(self) -> tuple[str, Any] | None:
        """("word" | "name" | "string" | "mark", text), ("end", ";"), or None at the end."""
        self._skip_space()
        if self._at == len(self._text):
            return None
        character = self._text[self._at]
        if character in "(),;":
            self._at += 1
            return ("end" if character == ";" else "mark"), character
        if character in "'\"`":
            self._at += 1
            text = self._quoted(character, self._backslash)
            if character == "'" or (character == '"' and self._backslash):
                return "string", text
            self._see(1)
            if not self._text.startswith(".", self._at):
                return "name", text
            self._at += 1  # "schema"."table"
            return self.token()
        found = _WORD.match(self._text, self._at)
        assert found is not None  # it is neither space, nor quote, nor mark
        self._at, word = found.end(), found.group()
        if self._text.startswith("'", self._at) and word.lower() in _PREFIXES:
            self._at += 1
            return "string", self._quoted("'", self._backslash or word.lower() == "e")
        return "word", word

    def _skip_space(self) -> None:
        """To the next token, with room to see all of it (a string is read piece by piece)."""
        while True:
            self._see(LOOKAHEAD)
            found = _SPACE.match(self._text, self._at)
            if found is not None:
                self._at = found.end()
            elif self._text.startswith("/*", self._at):  # longer than what is seen
                end = self._text.find("*/", self._at + 2)
                while end < 0 and not self._ended:
                    self._at = len(self._text) - 1
                    self._fill()
                    end = self._text.find("*/", self._at)
                if end < 0:
                    raise Refused("truncated")
                self._at = end + 2
            else:
                return

    def values(self) -> list[Any]:
        """The values of a row up to its closing bracket; the opening one has been read."""
        row: list[Any] = []
        depth, fresh = 1, True
        while token := self.token():
            kind, text = token
            if kind == "end":
                break
            if kind == "mark" and text in "()":
                depth += 1 if text == "(" else -1
                if depth == 0:
                    return row
            elif kind == "mark":
                fresh = depth == 1
            elif fresh:  # of an expression the first word stands for it
                row.append(None if kind == "word" and text.lower() == "null" else text)
                fresh = False
        if token is None:
            raise Refused("truncated")
        return row

    def copied(self) -> Iterator[list[Any]]:
        """The rows of COPY ... FROM stdin: a line each, fields between tabs, to a line of \\."""
        while (line := self._line()) != "\\.":
            if line is None:
                raise Refused("truncated")
            if line is _TOO_LARGE:
                yield [_TOO_LARGE]
            else:
                fields = line.split("\t")
                yield [None if f == "\\N" else _unescape(f) for f in fields]

    def skip_statement(self, line: bool = False) -> None:
        """Step behind the next ; outside of strings, and with `line` behind the line's end."""
        while (token := self.token()) and token[0] != "end":
            pass
        if line:
            self._line()

    def _line(self) -> Any:
        if self._at >= len(self._text) and not self._fill():
            return None
        pieces, size = [], 0
        while True:
            end = self._text.find("\n", self._at)
            piece = self._text[self._at : end if end >= 0 else None]
            size += len(piece)
            if size <= self._max:
                pieces.append(piece)
            self._at = end + 1 if end >= 0 else len(self._text)
            if end >= 0:
                return "".join(pieces).rstrip("\r") if size <= self._max else _TOO_LARGE
            if not self._fill():  # cut off, but for the last line of all
                return "\\." if "".join(pieces) == "\\." else None

    def _quoted(self, quote: str, backslash: bool) -> Any:
        """A string whose opening quote has been read; _TOO_LARGE, and nothing of it held, when it
        is longer than the limit."""
        special = re.compile(f"[{quote}\\\\]" if backslash else quote)
        pieces, size = [], 0
        while True:
            found = special.search(self._text, self._at)
            end = found.start() if found else len(self._text)
            size += end - self._at
            if size <= self._max:
                pieces.append(self._text[self._at : end])
            self._at = end
            if found is None:
                if not self._fill():
                    raise Refused("truncated")
                continue
            self._see(2)  # what follows decides
            following = self._text[self._at + 1 : self._at + 2]
            if self._text[self._at] == "\\":
                pieces.append(_ESCAPES.get(following, following))
            elif following == quote:
                pieces.append(quote)
            else:
                self._at += 1
                break
            self._at += 2
        return "".join(pieces) if size <= self._max else _TOO_LARGE

    def _see(self, count: int) -> None:
        """Have so many characters to look at, where there are as many: a read may give less."""
        while len(self._text) - self._at < count and self._fill():
            pass

    def _fill(self) -> bool:
        """Read a chunk more, and let go of what has been scanned; False at the end."""
        if self._ended:
            return False
        data = self._stream.read(CHUNK)
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return not self._ended


def _unescape(field: str) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), field) if "\\" in field else field

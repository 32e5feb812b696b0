"""JSON: an object on each line of a .jsonl file, or one list of objects in a .json file."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Drop
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import CHUNK, lines

_OPEN = re.compile(r"\s*\[\s*(\]?)")
_NEXT = re.compile(r"\s*[,\]]\s*")


def json_lines(stream: IO[bytes], place: Place) -> Iterator[tuple[int, Any]]:
    """Number and value of each line, or a Drop of one that is no JSON."""
    for number, line in enumerate(lines(stream, limit_of(place)), 1):
        if line is None:
            yield number, Drop("too_large", place.id(number))
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            yield number, Drop("undecodable", place.id(number))
        except (ValueError, RecursionError):
            yield number, Drop("no_json", place.id(number))
        else:
            yield number, record


def json_list(stream: IO[bytes], place: Place) -> Iterator[tuple[int, Any]]:
    """Number and value of each element of one list, without holding the list.

    Raises:
        Refused: no_json where the rest of the file is no list of JSON, or there is more behind
            it; too_large.
    """
    decoder, limit, number = json.JSONDecoder(), limit_of(place), 0
    utf8 = getincrementaldecoder("utf-8-sig")()
    text, position, wanted, ended = "", 0, CHUNK, False
    while True:
        try:
            mark = _mark(text, position, first=number == 0)
            if "]" in mark.group():
                position = mark.end()
                break
            value, end = decoder.raw_decode(text, mark.end())
            if end == len(text) and not ended:
                raise ValueError("a number may go on")
        except (ValueError, RecursionError) as error:
            if ended or isinstance(error, RecursionError):
                raise Refused("no_json") from error
            if len(text) - position > limit:
                raise Refused("too_large") from error
            data = stream.read(wanted)
            ended, wanted = not data, 2 * wanted  # parsing again costs no more than reading did
            try:
                text, position = text[position:] + utf8.decode(data, final=ended), 0
            except UnicodeDecodeError as undecodable:
                raise Refused("undecodable") from undecodable
            continue
        number, position, wanted = number + 1, end, CHUNK
        yield number, value
    while not text[position:].strip() and not ended:
        data = stream.read(CHUNK)
        text, position, ended = utf8.decode(data, final=not data), 0, not data
    if text[position:].strip():
        raise Refused("no_json")


def _mark(text: str, position: int, first: bool) -> re.Match[str]:
    """What stands before the next element of a list, or ends the list.

    Raises:
        ValueError: it is not there, or not yet.
    """
    found = (_OPEN if first else _NEXT).match(text, position)
    if found is None:
        raise ValueError("no list")
    return found


def limit_of(place: Place) -> int:
    """Bytes of a line: a document is under its limit even if each byte was an escape, \\u0041."""
    return 6 * place.source.max_document_bytes + 4096

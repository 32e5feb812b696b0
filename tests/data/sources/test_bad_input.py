"""Files that are empty, cut off, damaged or odd, in every format: each gives documents or a reason,
and what it gives can be written and read again."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import json
import lzma
import random
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megafm.data.document import Document, Drop
from megafm.data.lines import to_line
from megafm.data.sources import Fields
from tests.data.sources.helpers import documents, outcomes, results
from tests.data.sources.test_archives import tar, zipped
from tests.data.sources.test_tables import MYSQL, POSTGRES
from tests.data.sources.test_warc import CRAWL, PAGE

ROWS = [{"text": f"{number} {pow(7, number + 99)}", "m": {"a": [number]}} for number in range(30)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
MEMBERS = {f"{number}.txt": row["text"].encode() for number, row in enumerate(ROWS[:5])}
CHAT = b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}\n' * 5


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=10)
    return out.getvalue()


def sqlite() -> bytes:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE docs (text TEXT)")
        database.executemany("INSERT INTO docs VALUES (?)", [(row["text"],) for row in ROWS])
        database.commit()
        return database.serialize()


FILES: dict[str, Callable[[], bytes]] = {  # a whole one of each format
    "a.txt": lambda: b"hello\n" * 30,
    "a.html": lambda: PAGE,
    "a.warc": lambda: CRAWL * 3,
    "a.warc.gz": lambda: gzip.compress(CRAWL) * 3,
    "a.jsonl": lambda: JSONL,
    "a.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "a.ndjson": lambda: CHAT,
    "a.jsonl.gz": lambda: gzip.compress(JSONL),
    "a.jsonl.zst": lambda: zstandard.ZstdCompressor().compress(JSONL),
    "a.jsonl.bz2": lambda: bz2.compress(JSONL),
    "a.jsonl.xz": lambda: lzma.compress(JSONL),
    "a.csv": lambda: b"text,n\n" + b"".join(b'"%s",1\n' % row["text"].encode() for row in ROWS),
    "a.parquet": parquet,
    "a.db": sqlite,
    "a.mysql.sql": lambda: MYSQL.replace("body", "text").encode(),
    "a.postgres.sql": lambda: POSTGRES.replace("body", "text").encode(),
    "a.zip": lambda: zipped(MEMBERS | {"a.warc": CRAWL}),
    "a.tar": lambda: tar(MEMBERS),
    "a.tgz": lambda: tar(MEMBERS, "w:gz"),
}
KINDS = {"json": "jsonl", "ndjson": "conversations", "sql": "sql"}  # of the rest: files


def kind_of(name: str) -> str:
    return KINDS.get(name.rpartition(".")[2], "files")


@pytest.mark.parametrize("name", FILES)
def test_damage_anywhere_ends_in_documents_or_reasons(tmp_path: Path, name: str) -> None:
    whole, rng = FILES[name](), random.Random(name)
    path = tmp_path / name
    path.write_bytes(whole)
    assert isinstance(results(path, kind_of(name))[0], Document)
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] = rng.choice((rng.randrange(256), 0, 255, 34, 92))
        end = rng.choice((len(damaged), rng.randrange(len(damaged))))
        path.write_bytes(damaged[:end])
        found = results(path, kind_of(name), fields=Fields(metadata=("m",)))
        assert found
        for result in found:
            to_line(dataclasses.asdict(result))


@pytest.mark.parametrize(
    "name, data",
    [(name, b"") for name in FILES if name not in ("a.txt", "a.html")]
    + [("a.json", b" [ ] \n"), ("a.csv", b"text,n\n"), ("a.sql", b"-- nothing\nSELECT 1;")]
    + [("a.zip", zipped({})), ("a.tar", tar({})), ("a.warc.gz", gzip.compress(b""))],
)
def test_a_file_with_nothing_in_it_is_counted_once(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (drop,) = results(tmp_path, kind_of(name))
    assert isinstance(drop, Drop) and drop.where == name
    assert drop.reason in ("no_documents", "no_json", "truncated", "corrupt")


def test_tables_and_members_with_nothing_in_them_are_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "b.zip").write_bytes(zipped({"x.jsonl": b"", "y.txt": b"y"}))
    with closing(sqlite3.connect(tmp_path / "c.db")) as database:
        database.execute("CREATE TABLE docs (text TEXT)")
    none = "<no_documents>"
    assert outcomes(tmp_path) == [none, none, "y", none]


def test_what_follows_a_list_of_json_is_not_lost_in_silence(tmp_path: Path) -> None:
    one = b'[{"text": "one"}]' + b" \n" * 100_000
    (tmp_path / "a.json").write_bytes(one + b'[{"text": "two"}]')
    assert outcomes(tmp_path, "jsonl") == ["one", "<no_json>"]
    (tmp_path / "a.json").write_bytes(one)
    assert outcomes(tmp_path, "jsonl") == ["one"]


@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_json_nested_deep_is_counted_and_never_a_crash(tmp_path: Path, brackets: str) -> None:
    """Python's parser takes some 1000 levels, which those who read the documents need not."""
    start, end = brackets[:-1], brackets[-1]
    lines = [f'{{"text": "{n}", "m": {start * n}1{end * n}}}' for n in (90, 150, 900, 5000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    fields = Fields(metadata=("m",))
    expected = ["90", "<too_deep>", "<too_deep>", "<no_json>"]
    assert outcomes(tmp_path, "jsonl", fields=fields) == expected
    assert outcomes(tmp_path, "jsonl") == ["90", "150", "900", "<no_json>"]
    calls = f'{{"role": "assistant", "content": "", "tool_calls": {start * 900}1{end * 900}}}'
    (tmp_path / "a.jsonl").write_text(f'{{"messages": [{calls}]}}')
    assert outcomes(tmp_path, "conversations") == ["<too_deep>"]


def test_numbers_that_json_does_not_have_are_null_in_metadata(tmp_path: Path) -> None:
    lines = ['{"text": "a", "m": [1e999, NaN, -Infinity, 2.5]}', '{"text": "b", "m": NaN}']
    lines.append(f'{{"text": "c", "m": {"9" * 5000}}}')  # more digits than Python reads
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    one, two, three = results(tmp_path, "jsonl", fields=Fields(metadata=("m",)))
    assert isinstance(one, Document) and isinstance(two, Document)
    assert one.metadata["m"] == [None, None, None, 2.5] and "m" not in two.metadata
    assert three == Drop("no_json")


def test_a_dump_that_is_cut_off_gives_its_whole_rows_and_says_so(tmp_path: Path) -> None:
    for text in (
        "INSERT INTO t (text) VALUES ('one'),('tw",
        "INSERT INTO t (text) VALUES ('one'),('two'",
        "INSERT INTO t (text) VALUES ('one'); /* a remark",
        "COPY t (text) FROM stdin;\none\ntw",
    ):
        (tmp_path / "a.sql").write_text(text)
        assert outcomes(tmp_path, "sql") == ["one", "<truncated>"]
    (tmp_path / "a.sql").write_text("COPY t (text) FROM stdin;\none\n\\.")
    assert outcomes(tmp_path, "sql") == ["one"]


def test_names_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    archive = tar({"aaaa.txt": b"one"}).replace(b"aaaa.txt", b"\xe9\xe9\xe9\xe9.txt")
    checksum = int(archive[148:154], 8) + 4 * (0xE9 - ord("a"))
    (tmp_path / "a.tar").write_bytes(archive[:148] + b"%06o" % checksum + archive[154:])
    assert outcomes(tmp_path) == ["<undecodable_name>"]
    (tmp_path / "a.tar").unlink()
    (tmp_path / "a.sql").write_bytes(b"INSERT INTO t\xff (x) VALUES ('a');")
    assert results(tmp_path, "sql")[0].where == "a.sql:t\\udcff:1"  # type: ignore[union-attr]
    (tmp_path / "a.sql").unlink()
    (tmp_path / "a.db").write_bytes(sqlite().replace(b"docs", b"d\xffcs"))
    head, name, tail = parquet().rpartition(b"text\x15")  # as the last column has it
    (tmp_path / "b.parquet").write_bytes(head + b"\xb3" + name[1:] + tail)
    found = outcomes(tmp_path)
    assert found[0] == "<corrupt>" and found[-1] == "<corrupt>"


def test_a_member_of_an_archive_without_a_name_is_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", b"one")
        archive.writestr("b.txt", b"two")
        archive.infolist()[0].filename = ""
    assert outcomes(tmp_path) == ["<corrupt>", "two"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_text_whose_first_bytes_tell_its_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    for name in ("a.txt", "b.py"):
        (tmp_path / name).write_bytes(f"{mark}h\u00e9llo".encode(encoding))
    (tmp_path / "c.txt").write_bytes(f"{mark}nul \0".encode(encoding))
    (tmp_path / "d.txt").write_bytes(f"{mark}cut off".encode(encoding)[:-1])
    assert outcomes(tmp_path) == ["h\u00e9llo", "h\u00e9llo", "<binary>", "<undecodable>"]


WORDS = "word " * 50


@pytest.mark.parametrize(
    "head, text, encoding",
    [
        ("", "caf\u00e9", "utf-8"),
        ("", "caf\u00e9", "utf-16"),
        ("<meta charset=iso-8859-1>", "caf\u00e9", "latin-1"),
        ("<meta charset=utf-8>", "caf\u00e9", "latin-1"),  # as it is, whatever it says
        ("<meta charset=latin-1>", "caf\u00e9", "utf-8"),
        ("<meta charset=klingon>", "caf\u00e9", "utf-8"),
        ("<meta charset=shift_jis>", "\u65e5\u672c", "shift_jis"),
        ("<meta charset=iso-2022-jp>", "\u65e5\u672c", "iso-2022-jp"),
        ("<meta charset=windows-1251>", "\u043c\u0438\u0440", "cp1251"),
    ],
)
def test_pages_are_decoded_by_what_they_say_and_are(
    tmp_path: Path, head: str, text: str, encoding: str
) -> None:
    page = f"<html><head>{head}</head><body><p>{text} {WORDS}</p></body></html>"
    (tmp_path / "a.html").write_bytes(page.encode(encoding))
    (found,) = documents(tmp_path, "html")
    assert found.text.startswith(f"{text} word")

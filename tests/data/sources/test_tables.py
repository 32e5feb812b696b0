"""CSV, Parquet, SQLite and SQL exports: a row is a document, by the fields that are configured."""

from __future__ import annotations

import datetime
import io
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megafm.data.document import Document
from megafm.data.sources import Fields, Source, list_shards, read_shard, shard
from megafm.data.sources import sql as sql_module
from tests.data.sources.helpers import documents, outcomes, results

FIELDS = Fields(text="body", id="uid", licence="terms", timestamp="day", metadata=("n",))
ROWS = [
    {"uid": "a", "body": "one", "terms": "MIT", "day": "2024-05-01", "n": 1},
    {"uid": "b", "body": "two\nlines, 'quoted' \u00e9", "terms": "", "day": "", "n": 2},
]


def check(found: list[Document], prefix: str, number: object = 1) -> None:
    """The documents of ROWS; `number` is how the format gives the 1 of column n."""
    assert [(d.id, d.text) for d in found] == [(f"{prefix}:{r['uid']}", r["body"]) for r in ROWS]
    assert [d.licence for d in found] == ["MIT", "unspecified"]
    assert [d.timestamp for d in found] == ["2024-05-01", ""]
    assert found[0].metadata["n"] == number


def test_csv(tmp_path: Path) -> None:
    text = "\ufeffuid,body,terms,day,n\na,one,MIT,2024-05-01,1\n\n"
    text += "b,\"two\nlines, 'quoted' \u00e9\",,,2\n"
    (tmp_path / "a.csv").write_text(text)
    check(documents(tmp_path, "csv", fields=FIELDS), "a.csv", "1")
    (tmp_path / "a.csv").rename(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text("text\tn\none\t1\ntwo, too\t2\n")
    assert outcomes(tmp_path, "csv") == ["one", "two, too"]


def test_rows_of_csv_that_do_not_fit_are_counted_and_the_next_one_is_read(tmp_path: Path) -> None:
    rows = ["text,n", "one", "two,2", '"a"b,3', "t" * 20_000 + ",4", "five,5"]
    data = "\n".join(rows).encode() + b"\n\xff,6\n" + b'"never closed\n,8\n'
    (tmp_path / "a.csv").write_bytes(data)
    assert outcomes(tmp_path, max_document_bytes=1000) == [
        *("<bad_row>", "two", "<bad_row>", "<too_large>", "five", "<undecodable>", "<bad_row>")
    ]
    (tmp_path / "a.csv").write_text("body,n\none,1\n")
    assert outcomes(tmp_path) == ["<no_text_column>"]


def test_a_quotation_that_never_ends_is_bounded(tmp_path: Path) -> None:
    lines = b'text\n"open\n' + b"a line of it\n" * 10_000
    (tmp_path / "a.csv").write_bytes(lines)
    assert outcomes(tmp_path, max_document_bytes=1000)[0] == "<too_large>"


def write_parquet(path: Path, rows: list[dict], per_group: int) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=per_group)


def test_parquet_is_a_shard_per_row_group_and_numbers_go_through(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "meta": {"url": f"https://a.example/{n}"}} for n in range(1000)]
    write_parquet(tmp_path / "a.parquet", rows, 300)
    fields = Fields(path="meta.url")
    source = Source(kind="parquet", path=str(tmp_path), fields=fields)
    shards = list_shards(source).shards
    assert [(shard.part, shard.first_row) for shard in shards] == [
        *((0, 0), (1, 300), (2, 600), (3, 900))
    ]
    assert 0 < sum(shard.size for shard in shards) < (tmp_path / "a.parquet").stat().st_size
    (last,) = [list(read_shard(source, shard)) for shard in shards[3:]]
    assert [d.id for d in last] == [f"a.parquet:{n}" for n in range(901, 1001)]
    found = documents(tmp_path, "parquet", fields=fields)
    assert [d.text for d in found] == [row["text"] for row in rows]
    assert found[7].path == "https://a.example/7"


def test_parquet_columns_and_what_is_no_text(tmp_path: Path) -> None:
    rows = [row | {"day": datetime.date(2024, 5, 1) if row["day"] else None} for row in ROWS]
    write_parquet(tmp_path / "a.parquet", rows, 10)
    check(documents(tmp_path, "parquet", fields=FIELDS), "a.parquet")
    assert outcomes(tmp_path, "parquet") == ["<no_text_column>"]
    table = pa.table({"text": pa.array([b"ok", b"\xff", None, b"a" * 50], pa.binary())})
    pq.write_table(table.cast(pa.schema([("text", pa.binary())])), tmp_path / "a.parquet")
    expected = ["ok", "<undecodable>", "<no_text>", "<too_large>"]
    assert outcomes(tmp_path, "parquet", max_document_bytes=40) == expected


def test_parquet_that_is_cut_off_corrupt_or_compressed_again_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [{"text": str(n) * 50} for n in range(1000)], 500)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert outcomes(tmp_path, "parquet") == ["<truncated>"]
    path.write_bytes(b"")
    assert outcomes(tmp_path, "parquet") == ["<truncated>"]
    path.write_bytes(whole[:100] + b"\xff" * 200 + whole[300:])
    assert "<corrupt>" in outcomes(tmp_path, "parquet")
    path.write_bytes(b"PAR1" + b"\0" * 50 + b"PAR1")
    assert outcomes(tmp_path, "parquet") == ["<corrupt>"]
    path.rename(tmp_path / "a.parquet.gz")
    assert outcomes(tmp_path, "parquet") == ["<not_seekable>"]


def test_a_page_of_parquet_that_explodes_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FREE_EXPANSION", 1_000_000)
    table = pa.table({"text": ["a" * 2_000_000], "other": ["b"]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert outcomes(tmp_path, max_document_bytes=10**7) == ["<zip_bomb>"]
    assert outcomes(tmp_path, fields=Fields(text="other")) == ["b"]  # the column that is read


def write_sqlite(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE docs (uid TEXT, body TEXT, terms TEXT, day TEXT, n INT)")
    database.execute("CREATE TABLE 'odd \"name' (body TEXT)")
    database.execute("CREATE TABLE other (x INT)")
    database.executemany("INSERT INTO docs VALUES (:uid, :body, :terms, :day, :n)", ROWS)
    database.execute("INSERT INTO 'odd \"name' VALUES ('strange')")
    database.commit()
    database.close()


def test_sqlite_reads_the_tables_with_text_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write_sqlite(path)
    before = path.read_bytes()
    check(documents(tmp_path, "sqlite", table="docs", fields=FIELDS), "a.db")
    found = outcomes(tmp_path, "sqlite", fields=Fields(text="body"))
    assert found == ["one", ROWS[1]["body"], "strange", "<no_text_column>"]
    assert outcomes(tmp_path, "sqlite", table="nonesuch") == ["<no_table>"]
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_sqlite_with_rows_that_are_only_in_its_log_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE docs (text TEXT)")
        database.execute("INSERT INTO docs VALUES ('new')")
        database.commit()
        found = outcomes(tmp_path / "a.db", "sqlite")
    assert found == ["<not_checkpointed>"]
    assert outcomes(tmp_path / "a.db", "sqlite") == ["new"]


def test_sqlite_that_is_large_or_broken_is_counted(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("CREATE TABLE docs (text TEXT)")
    values = [("a" * 2000,), (None,), ("fine",)]
    database.executemany("INSERT INTO docs VALUES (?)", values)
    database.execute("INSERT INTO docs VALUES (CAST(x'ff' AS TEXT))")
    database.commit()
    database.close()
    expected = ["<too_large>", "<no_text>", "fine", "<undecodable>"]
    assert outcomes(tmp_path, "sqlite", max_document_bytes=1000) == expected
    (tmp_path / "a.db").write_bytes(b"no database at all" * 500)
    assert outcomes(tmp_path, "sqlite") == ["<corrupt>"]


def test_a_dump_of_sqlite_gives_the_rows_of_the_database(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as database:
        (tmp_path / "a.sql").write_text("\n".join(database.iterdump()))
    check(documents(tmp_path, "sql", table="docs", fields=FIELDS), "a.sql", "1")


MYSQL = r"""-- MySQL dump 10.13
/*!40101 SET NAMES utf8 */;
CREATE TABLE `docs` (`uid` char(1) NOT NULL, `body` text COMMENT 'a, (b)', PRIMARY KEY (`uid`));
INSERT INTO `docs` VALUES ('a','it\'s \"one\"\n \\'),('b',NULL),('c','x; -- y');
INSERT INTO `docs` (`body`, `uid`) VALUES ('turned','d');
UNLOCK TABLES;
"""
POSTGRES = r"""
CREATE TABLE public.docs (
    uid integer NOT NULL,
    body text DEFAULT 'none'::text
);
COPY public.docs (uid, body) FROM stdin;
1	a\ttab and 'quotes'; ok
2	\N
3	last
\.
INSERT INTO public."docs" (uid, body) VALUES (4, 'back\slash'), (5, E'it\'s');
SELECT pg_catalog.setval('x', 1, true);
"""


def test_exports_of_mysql_and_postgres(tmp_path: Path) -> None:
    fields = Fields(text="body", id="uid")
    (tmp_path / "a.sql").write_text(MYSQL)
    expected = ['it\'s "one"\n \\', "<no_text>", "x; -- y", "turned"]
    assert outcomes(tmp_path, "sql", fields=fields) == expected
    (tmp_path / "a.sql").write_text(POSTGRES)
    expected = ["a\ttab and 'quotes'; ok", "<no_text>", "last", "back\\slash", "it's"]
    assert outcomes(tmp_path, "sql", fields=fields) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_a_dump_reads_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    fields = Fields(text="body", id="uid")
    expected = {}
    for name, text in (("m.sql", MYSQL), ("p.sql", POSTGRES)):
        (tmp_path / name).write_text(text)
        expected[name] = outcomes(tmp_path / name, "sql", fields=fields)

    class Slow(io.BufferedReader):
        def read(self, size: int = -1) -> bytes:
            return super().read(min(size, chunk))

    monkeypatch.setattr("megafm.data.sources.opened", lambda path: Slow(io.FileIO(path)))
    monkeypatch.setattr(sql_module, "LOOKAHEAD", 100)
    for name, texts in expected.items():
        assert outcomes(tmp_path / name, "sql", fields=fields) == texts


def test_a_value_of_a_dump_over_the_limit_is_counted_and_never_held(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    (tmp_path / "a.sql").write_text(
        f"CREATE TABLE t (text TEXT);\nINSERT INTO t VALUES ('{long}'),('after');\n"
        f"/* {long} */ INSERT INTO t VALUES ('a','b');\nINSERT INTO t VALUES ('cut off"
    )
    expected = ["<too_large>", "after", "<bad_row>", "<truncated>"]
    assert outcomes(tmp_path, "sql", max_document_bytes=1000) == expected


def test_tables_with_bytes_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_bytes(b"INSERT INTO t (text) VALUES ('\xff'),('ok');")
    assert outcomes(tmp_path, "sql") == ["<undecodable>", "ok"]
    assert results(tmp_path, "sql")[0].where == "a.sql:t:1"

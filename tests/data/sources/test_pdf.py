"""PDF files: several pages, compressed or not, and those that give no text, each with a reason."""

from __future__ import annotations

import io
import random
from datetime import datetime
from pathlib import Path

import pytest

from megafm.data.document import Drop
from tests.data.sources.helpers import documents, outcomes, results

pypdf = pytest.importorskip("pypdf", reason="the extra data is not installed")


def pdf_of(*pages: str, title: str = "", compressed: bool = False, password: str = "") -> bytes:
    """A page per text, of one line each in Helvetica."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    name = NameObject
    font = DictionaryObject(
        {name("/Type"): name("/Font"), name("/Subtype"): name("/Type1"),
         name("/BaseFont"): name("/Helvetica"), name("/Encoding"): name("/WinAnsiEncoding")}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(width=300, height=200)
        fonts = DictionaryObject({name("/F1"): writer._add_object(font)})
        page[name("/Resources")] = DictionaryObject({name("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode("cp1252") if text else b"")
        page[name("/Contents")] = writer._add_object(stream)
        if compressed:
            page.compress_content_streams()
    if title:
        writer.add_metadata({"/Title": title, "/CreationDate": "D:20240131120000Z"})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_pages_follow_each_other_and_empty_ones_are_left_out(
    tmp_path: Path, compressed: bool
) -> None:
    written = pdf_of("One caf\u00e9", "", "Three", title="About", compressed=compressed)
    assert (b"FlateDecode" in written) == compressed
    (tmp_path / "a.pdf").write_bytes(written)
    (found,) = documents(tmp_path, "pdf")
    assert found.text == "One caf\u00e9\n\nThree"
    assert (found.metadata["pages"], found.metadata["title"]) == (3, "About")
    assert datetime.fromisoformat(found.timestamp).date().isoformat() == "2024-01-31"


def test_what_gives_no_text_has_its_reason(tmp_path: Path) -> None:
    whole = pdf_of("One", "Two")
    files = {
        "a_encrypted.pdf": pdf_of("One", password="secret"),
        "b_scanned.pdf": pdf_of("", ""),
        "c_no_pages.pdf": pdf_of(),
        "d_too_long.pdf": pdf_of("x" * 3000, "y" * 3000),
        "e_cut.pdf": whole[: len(whole) // 4],
        "f_not_one.pdf": b"%PDF-1.4 broken",
        "g_empty.pdf": b"",
        "h_text.pdf": whole,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert outcomes(tmp_path, "pdf", max_document_bytes=4000) == [
        "<encrypted>", "<no_text>", "<no_text>", "<too_large>", "<corrupt>", "<corrupt>",
        "<corrupt>", "One\n\nTwo",
    ]  # fmt: skip


def test_a_lost_table_of_objects_is_found_again(tmp_path: Path) -> None:
    """As a transfer that changes line ends leaves it: pypdf looks for the objects themselves."""
    whole = pdf_of("One", "Two")
    start = whole.rindex(b"startxref")
    (tmp_path / "a.pdf").write_bytes(whole[:start] + b"startxref\n7\n%%EOF\n")
    assert outcomes(tmp_path, "pdf") == ["One\n\nTwo"]


def test_damage_anywhere_ends_in_text_or_a_reason(tmp_path: Path) -> None:
    whole, rng = pdf_of("One", "Two", compressed=True), random.Random(5)
    for number in range(120):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = rng.choice((len(damaged), rng.randrange(len(damaged))))
        (tmp_path / f"{number:03}.pdf").write_bytes(bytes(damaged[:cut]))
    found = results(tmp_path, "pdf")
    assert len(found) == 120
    reasons = {one.reason for one in found if isinstance(one, Drop)}
    assert "corrupt" in reasons and reasons <= {"corrupt", "no_text", "encrypted", "too_large"}


def test_a_stream_that_explodes_gives_no_text(tmp_path: Path) -> None:
    """210 MB of letters in 200 kB: the text of a page is bounded before it is made."""
    from pypdf.generic import DecodedStreamObject, NameObject

    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(width=300, height=200)
    stream = DecodedStreamObject()
    stream.set_data(b"BT" + b" (x) Tj" * 30_000_000)
    page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())
    out = io.BytesIO()
    writer.write(out)
    (tmp_path / "a.pdf").write_bytes(out.getvalue())
    assert outcomes(tmp_path, "pdf") == ["<no_text>"]

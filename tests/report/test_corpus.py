from __future__ import annotations

import re
from pathlib import Path

import pytest

from megafm.report.corpus import write_data_report
from tests.data.test_card import made


def test_the_page_shows_where_documents_went_and_needs_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path)
    text = write_data_report(folder).read_text()
    for piece in (
        "files of corpus",
        "<td>exact duplicate</td>",
        "gopher_quality_v1",
        "exact_duplicate",
        "near duplicates: 0",
        "print(&#x27;one more line&#x27;)",
        "gopher_signals_v1.words",
        "some words here",
        "b2.py",
        "not stated",
    ):
        assert piece in text
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert text.count("<section>") == text.count("</section>") == 8


def test_a_folder_without_statistics_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no manifest.json there; run: megafm data"):
        write_data_report(tmp_path)

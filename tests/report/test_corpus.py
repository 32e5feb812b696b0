from __future__ import annotations

import re
from pathlib import Path

import pytest

from megafm.report.corpus import write_data_report
from megafm.report.svg import bar_chart
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


def test_names_of_bars_are_not_cut_off() -> None:
    name = "gopher_repetition_v1"
    chart = bar_chart([(name, 1.0, "model"), ("x", 0.5, "model")], label="x")
    places = [float(x) for x in re.findall(r'<text class="name" x="(\d+)"', chart)]
    assert len(places) == 2 and min(places) >= 8 * len(name)  # they end there


def test_a_folder_without_statistics_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no manifest.json there; run: megafm data"):
        write_data_report(tmp_path)

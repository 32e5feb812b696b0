from __future__ import annotations

from benchmarks.readme import ROOT, filled


def test_the_readme_shows_the_committed_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text) == text, "run: python -m benchmarks.readme"

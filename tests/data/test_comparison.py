from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megafm.data import comparison
from megafm.data.comparison import compare, diff
from megafm.data.prepare import prepare
from tests.data.helpers import data_folder, files_job, program


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    before = data_folder(tmp_path)
    corpus = Path(shutil.copytree(tmp_path / "corpus", tmp_path / "after" / "corpus"))
    (corpus / "program_003.py").unlink()
    (corpus / "program_004.py").write_text(program(4) + "\nmore = 1\n")
    (corpus / "program_900.py").write_text(program(900))
    (corpus / "program_901.py").write_text(program(900))
    (corpus / "nothing.py").touch()
    prepare(files_job(corpus, tmp_path / "after" / "data", max_line_bytes=4000), lambda text: None)
    return str(before), str(tmp_path / "after" / "data")


@pytest.mark.parametrize("part_documents", [1 << 18, 7])
def test_a_difference_names_the_documents(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, part_documents: int
) -> None:
    monkeypatch.setattr(comparison, "PART_DOCUMENTS", part_documents)
    found = compare(*folders)
    assert {kind: names for kind, names in found.ids.items() if kind != "moved"} == {
        "added": ["program_900.py"],
        "removed": ["program_003.py"],
        "changed": ["program_004.py"],
    }
    assert found.dropped == {"empty": 1, "exact_duplicate": 1}
    assert [rule[0] for rule in found.rules] == ["-", "+"]
    assert "max_bytes=4000" in found.rules[1]
    assert not compare(folders[0], folders[0]).counts


def test_a_document_of_another_split_has_moved(tmp_path: Path) -> None:
    before = data_folder(tmp_path)
    prepare(files_job(tmp_path / "corpus", tmp_path / "other", 0.5), lambda text: None)
    found = compare(str(before), str(tmp_path / "other"))
    assert set(found.counts) == {"moved"}


def test_it_is_printed(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    diff(*folders)
    shown = capsys.readouterr().out
    for piece in ("program_900.py", "exact_duplicate", "+1", "max_bytes=4000"):
        assert piece in shown

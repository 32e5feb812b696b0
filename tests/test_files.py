from __future__ import annotations

from pathlib import Path

import pytest

from megafm.files import atomic_open, publish, staging, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match=r"No space left.*file"), atomic_open(target) as out:
        out.write(b"half of it")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_text_is_written_as_utf8_into_folders_made_for_it(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "file", "\u00e9\n")
    assert (tmp_path / "deep" / "file").read_bytes() == b"\xc3\xa9\n"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(OSError, match="a/file"):
        write_text(tmp_path / "a" / "file", "x")


def test_what_a_killed_job_left_is_never_published(tmp_path: Path) -> None:
    write_text(tmp_path / ".partial" / "documents", "half of another corpus")
    with staging(tmp_path) as stage:
        write_text(stage / "new", "x")
        publish(stage, tmp_path, last="new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]

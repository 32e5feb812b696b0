from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from megafm.data.sources import Source, list_shards


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source.path=.*no such folder"):
        list_shards(Source(kind="files", path=str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="source.path=null.*set source.path=DIR"):
        Source(kind="files")


def test_a_folder_is_filtered_by_pattern_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    for name in ("a.py", "deep/b.py", "deep/c.txt", ".git/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    listing = list_shards(Source(kind="files", path=str(tmp_path), pattern="*.py"))
    assert [shard.name for shard in listing.shards] == ["a.py", "deep/b.py"]


def test_links_in_a_circle_end_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "itself.py").symlink_to(tmp_path / "itself.py")
    listing = list_shards(Source(kind="files", path=str(tmp_path)))
    assert [shard.name for shard in listing.shards] == ["a.py"]
    assert listing.dropped == {"linked_folder": 1, "unreadable": 1}


def test_links_to_files_outside_are_counted_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    (folder / "inside.txt").symlink_to("a.txt")
    (folder / "outside.txt").symlink_to(tmp_path / "secret.txt")
    listing = list_shards(Source(kind="files", path=str(folder)))
    assert [shard.name for shard in listing.shards] == ["a.txt", "inside.txt"]
    assert listing.dropped == {"linked_file": 1}


def test_a_name_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    (tmp_path / "with\nline break.txt").write_text("x")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system refuses such names")
    listing = list_shards(Source(kind="files", path=str(tmp_path)))
    assert [shard.name for shard in listing.shards] == ["with\nline break.txt"]
    assert listing.dropped == {"undecodable_name": 1}


def test_a_folder_without_permission_is_counted() -> None:
    with tempfile.TemporaryDirectory() as name:  # one that another user may enter
        root = Path(name)
        root.chmod(0o755)
        (root / "a.py").write_text("x")
        (root / "closed").mkdir(mode=0o000)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            listing = list_shards(Source(kind="files", path=str(root)))
        finally:
            os.seteuid(user)
    assert [shard.name for shard in listing.shards] == ["a.py"]
    assert listing.dropped == {"unreadable": 1}

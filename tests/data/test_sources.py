from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from megafm.data.config import Source
from megafm.data.sources import list_files, list_folder

NUMPY = Source(packages=("numpy",))


def test_the_installation_is_listed_without_absolute_paths() -> None:
    listing = list_files(NUMPY)
    ids = [entry.id for entry in listing.files]
    assert "stdlib/python/argparse.py" in ids
    assert any(name.startswith("package/numpy/numpy/") for name in ids)
    assert ids == sorted(set(ids))
    assert not any(entry.path.startswith("/") or ".." in entry.path for entry in listing.files)
    assert "standard library without its tests + 1 packages" in listing.corpus


def test_tests_compiled_and_machine_specific_files_stay_out() -> None:
    listing = list_files(NUMPY)
    for entry in listing.files:
        folders = entry.path.split("/")[:-1]
        assert not {"__pycache__", "site-packages", "tests", "idle_test"} & set(folders), entry.id
        assert "_sysconfigdata" not in entry.path
        assert entry.file.suffix in (".py", ".rst", ".txt", ".md")
    assert listing.dropped["test"] > 0
    with_tests = list_files(Source(packages=("numpy",), package_tests=True))
    assert any("/tests/" in entry.path for entry in with_tests.files)


def test_packages_that_are_not_permissive_are_named_and_counted() -> None:
    listing = list_files(Source(packages=("hypothesis",)))
    assert [name.split()[0] for name in listing.skipped_packages] == ["hypothesis"]
    assert listing.dropped["licence"] > 50
    assert all(entry.source == "stdlib" for entry in listing.files)


def test_a_package_stops_at_its_limit_of_bytes() -> None:
    listing = list_files(Source(packages=("numpy",), max_package_bytes=300_000))
    sizes = [entry.size for entry in listing.files if entry.source == "package"]
    assert sum(sizes) - max(sizes) < 300_000 <= sum(sizes)
    assert listing.dropped["package_limit"] > 100


def test_an_unknown_package_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="source.packages names 'nonesuch': not installed"):
        list_files(Source(packages=("nonesuch",)))


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source.path=.*no such folder"):
        list_files(Source(kind="files", path=str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="source.path=null.*set source.path=DIR"):
        Source(kind="files")


def test_a_folder_is_filtered_by_pattern_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    for name in ("a.py", "deep/b.py", "deep/c.txt", ".git/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    listing = list_folder(Source(kind="files", path=str(tmp_path), pattern="*.py"))
    assert [entry.id for entry in listing.files] == ["a.py", "deep/b.py"]


def test_links_in_a_circle_end_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "itself.py").symlink_to(tmp_path / "itself.py")
    listing = list_files(Source(kind="files", path=str(tmp_path)))
    assert [entry.id for entry in listing.files] == ["a.py"]
    assert listing.dropped == {"linked_folder": 1, "unreadable": 1}


def test_a_name_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    (tmp_path / "with\nline break.txt").write_text("x")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system refuses such names")
    listing = list_files(Source(kind="files", path=str(tmp_path)))
    assert [entry.id for entry in listing.files] == ["with\nline break.txt"]
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
            listing = list_files(Source(kind="files", path=str(root)))
        finally:
            os.seteuid(user)
    assert [entry.id for entry in listing.files] == ["a.py"]
    assert listing.dropped == {"unreadable": 1}

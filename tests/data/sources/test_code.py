"""Source trees and real git checkouts: what is tracked, and the licence of each file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from megafm.data.sources import Source, list_shards
from tests.data.sources.helpers import documents, results

MIT = """MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED.
"""


def git(folder: Path, *command: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    names += ["-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *names, "-C", str(folder), *command], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two licences, a header that says another, a link, a submodule, and what git leaves out."""
    library = tmp_path / "library"
    library.mkdir()
    write(library, vendored="print(1)\n")
    git(library, "init")
    git(library, "add", ".")
    git(library, "commit", "-m", "one")

    root = tmp_path / "project"
    root.mkdir()
    git(root, "init")
    write(root, LICENSE=MIT, **{"main.py": "import a\n", "new.py": "untracked\n"})
    write(root, **{"header.py": "# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause\nx = 1\n"})
    write(root, third__COPYING="GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007\n" * 3)
    write(root, **{"third__deep__b.py": "b = 2\n", ".gitignore": "*.log\n", "a.log": "ignored\n"})
    (root / "link.py").symlink_to("main.py")
    (root / "outside.py").symlink_to("/etc/hostname")
    git(root, "submodule", "add", str(library), "sub")
    git(root, "add", ".gitignore", "LICENSE", "main.py", "header.py", "third")
    git(root, "add", "link.py", "outside.py")
    git(root, "commit", "-m", "one")
    return root


def test_a_checkout_gives_what_git_tracks_with_its_licences(checkout: Path) -> None:
    listing = list_shards(Source(kind="git", path=str(checkout)))
    assert listing.dropped == {"linked_file": 2, "submodule": 1}
    found = {one.path: one for one in documents(checkout, "git", pattern="*.py")}
    assert {path: one.licence for path, one in found.items()} == {
        "header.py": "Apache-2.0 OR BSD-3-Clause",
        "main.py": "MIT",
        "third/deep/b.py": "GPL-3.0-only",
    }
    commit = git(checkout, "rev-parse", "HEAD")
    assert all(one.metadata["commit"] == commit for one in found.values())


def test_a_submodule_is_a_checkout_of_its_own(checkout: Path) -> None:
    """Its .git is a file that leads to the folder of the project."""
    assert (checkout / "sub" / ".git").is_file()
    assert [one.text for one in documents(checkout / "sub", "git")] == ["print(1)\n"]


def test_a_plain_tree_gives_untracked_files_too_and_nothing_of_the_git_folder(
    checkout: Path,
) -> None:
    git(checkout, "gc", "-q")  # packed: binary files under .git
    paths = [one.path for one in documents(checkout, "code", pattern="*.py")]
    assert paths == ["header.py", "link.py", "main.py", "new.py", "third/deep/b.py"]
    everything = [one for one in results(checkout, "code")]
    assert not [one for one in everything if ".git/" in getattr(one, "path", "")]


def test_a_file_that_is_tracked_and_gone_is_counted(checkout: Path) -> None:
    (checkout / "main.py").unlink()
    listing = list_shards(Source(kind="git", path=str(checkout), pattern="*.py"))
    assert listing.dropped == {"linked_file": 2, "submodule": 1, "unreadable": 1}
    assert len(documents(checkout, "git", pattern="*.py")) == 2


def test_settings_of_a_checkout_run_nothing(checkout: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    command = f"touch {trap}"
    for name in ("core.fsmonitor", "core.pager", "core.sshCommand", "filter.x.smudge"):
        git(checkout, "config", name, command)
    hook = checkout / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{command}\n")
    os.chmod(hook, 0o755)
    assert len(documents(checkout, "git", pattern="*.py")) == 3
    assert not trap.exists()


def test_a_folder_that_is_no_checkout_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source.path=.*set source.kind=code for a plain folder"):
        list_shards(Source(kind="git", path=str(tmp_path)))

from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.licence_texts import FILE_NAME, licence_of_header, licence_of_text
from tests.data.sources.helpers import documents

MIT = """Copyright (c) 2020 A. Person
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software. The above copyright notice and this permission notice shall be included."""


def test_a_licence_is_known_by_its_text() -> None:
    assert licence_of_text(MIT) == "MIT"
    assert licence_of_text(MIT.partition("The above")[0]) == "MIT-0"
    assert licence_of_text("  Apache License\n  Version 2.0, January 2004\n") == "Apache-2.0"
    assert licence_of_text("GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29") == "LGPL-3.0-only"
    assert licence_of_text("All rights reserved.") == "unknown"


@pytest.mark.parametrize(
    "head, expected",
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        ("/* SPDX-License-Identifier: (MIT OR Apache-2.0) */", "(MIT OR Apache-2.0)"),
        ("// SPDX-License-Identifier: GPL-2.0 WITH x-note AND MIT", "GPL-2.0 WITH x-note AND MIT"),
        ("x = 1", ""),
    ],
)
def test_the_header_of_a_file(head: str, expected: str) -> None:
    assert licence_of_header(head) == expected


def test_which_files_hold_a_licence() -> None:
    names = ["LICENSE", "licence.txt", "LICENSE-MIT", "COPYING.LESSER", "UNLICENSE"]
    assert all(FILE_NAME.fullmatch(name) for name in names)
    assert not any(map(FILE_NAME.fullmatch, ["licence_texts.py", "license.json", "relicense"]))


def test_each_file_of_a_tree_has_the_nearest_licence_or_that_of_its_head(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / "lib" / "COPYING").write_text("Mozilla Public License Version 2.0")
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("# SPDX-License-Identifier: ISC\n")
    (tmp_path / "lib" / "c.py").write_text("y = 1")
    found = {d.id: d.licence for d in documents(tmp_path, "code", pattern="*.py")}
    assert found == {"a.py": "MIT", "b.py": "ISC", "lib/c.py": "MPL-2.0"}

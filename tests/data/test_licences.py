from __future__ import annotations

from email.message import Message

import pytest

from megafm.data.licences import is_permissive, licence


def metadata(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in fields:
        message[name] = value
    return message


BSD = ("Classifier", "License :: OSI Approved :: BSD License")
GPL = ("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")


@pytest.mark.parametrize(
    "fields, expected",
    [
        ([("License-Expression", "MIT OR Apache-2.0"), GPL], "MIT OR Apache-2.0"),
        ([("License", "Copyright 2020, all of the text ..."), BSD], "BSD-3-Clause"),
        ([("License", "Apache 2.0 License")], "Apache-2.0"),
        ([("License", "Apache License, Version 2.0")], "Apache-2.0"),
        ([("License", "3-Clause BSD License")], "BSD-3-Clause"),
        ([("License", "The MIT License")], "MIT"),
        ([("License", "BSD")], "BSD-3-Clause"),
        ([("License", "Simplified BSD License")], "BSD-2-Clause"),
        ([("License", "BSD-2-Clause")], "BSD-2-Clause"),
        ([("License", "BSD-3-Clause OR GPL-2.0-only")], "BSD-3-Clause OR GPL-2.0-only"),
        ([("License", "BSD 3-Clause, GPLv3")], "unknown"),
        ([("License", "BSD-like, not for commercial use")], "unknown"),
        ([("License", "MPL-2.0 AND MIT")], "MPL-2.0 AND MIT"),
        ([("Classifier", "License :: OSI Approved")], "unknown"),
        ([("License", "see the file\nLICENSE")], "unknown"),
        ([], "unknown"),
    ],
)
def test_licence_of_metadata(fields: list[tuple[str, str]], expected: str) -> None:
    assert licence(metadata(*fields)) == expected


@pytest.mark.parametrize(
    "expression, allowed",
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("(GPL-3.0-only OR MIT) AND ISC", True),
        ("GPL-3.0-only AND MIT", False),
        ("MPL-2.0", False),
        ("MIT AND (GPL-2.0-only OR MPL-2.0)", False),
        ("unknown", False),
        ("", False),
        ("(MIT", False),
        ("MIT MIT", False),
        ("MIT AND", False),
    ],
)
def test_permissive(expression: str, allowed: bool) -> None:
    assert is_permissive(expression) is allowed


def test_permissive_in_part_is_not_permissive() -> None:
    assert not is_permissive(licence(metadata(("License", "BSD AND GPL-3.0-only"))))


def test_every_classifier_must_be_permissive() -> None:
    assert is_permissive(licence(metadata(BSD)))
    assert not is_permissive(licence(metadata(BSD, GPL)))

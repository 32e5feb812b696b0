"""Which installed packages may be learnt from: the licence of their metadata, and an allow-list.

Allowed are permissive licences, which ask for attribution at most. Copyleft of any strength
(GPL, LGPL, MPL) and packages whose metadata states no licence that we can read are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.metadata import PackageMetadata

PERMISSIVE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"}
    | {"HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "NCSA", "PSF-2.0", "Python-2.0", "Unlicense"}
    | {"Zlib"}
)

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}

# The old free-form License field, when it is a short name and not the licence's text.
_SHORT_NAMES = {
    "BSD-2-Clause": r"(the )?(simplified bsd|2[- ]clause bsd|bsd[- ]2[- ]clause)( license)?",
    "BSD-3-Clause": r"(the )?((new |modified )?bsd|3[- ]clause bsd|bsd[- ]3[- ]clause)( license)?",
    "Apache-2.0": r"apache[- ]?(software )?(license)?,?( version)?[- ]?2(\.0)?( license)?",
    "MIT": r"(the )?mit( license)?",
    "ISC": r"isc( license)?",
    "PSF-2.0": r"(psf|python software foundation)( license)?",
}


def licence(metadata: PackageMetadata) -> str:
    """The SPDX expression of a distribution's metadata, "unknown" where it states none.

    License-Expression counts first, then the classifiers (all must hold), then the free text.
    """
    if "License-Expression" in metadata:
        return metadata["License-Expression"].strip()
    stated = metadata.get_all("Classifier") or []
    names = [line.rpartition("::")[2].strip() for line in stated if line.startswith("License ::")]
    names = [name for name in names if name != "OSI Approved"]
    if names:
        return " AND ".join(_CLASSIFIERS.get(name, name.replace(" ", "-")) for name in names)
    text = metadata["License"].strip() if "License" in metadata else ""
    for name, pattern in _SHORT_NAMES.items():
        if re.fullmatch(pattern, text, re.IGNORECASE):
            return name
    return text if re.fullmatch(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*", text) else "unknown"


def is_permissive(expression: str, permissive: Collection[str] = PERMISSIVE) -> bool:
    """True when an SPDX expression allows use under permissive terms.

    All operands of AND must be on the allow-list, one of OR suffices; what cannot be parsed is
    not permissive. An exception (WITH) only adds rights.
    """
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)
    try:
        allowed, rest = _parse_or(tokens, permissive)
    except IndexError:
        return False
    return allowed and not rest


def _parse_or(tokens: list[str], permissive: Collection[str]) -> tuple[bool, list[str]]:
    allowed, tokens = _parse_and(tokens, permissive)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _parse_and(tokens[1:], permissive)
        allowed = allowed or other
    return allowed, tokens


def _parse_and(tokens: list[str], permissive: Collection[str]) -> tuple[bool, list[str]]:
    allowed, tokens = _parse_licence(tokens, permissive)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _parse_licence(tokens[1:], permissive)
        allowed = allowed and other
    return allowed, tokens


def _parse_licence(tokens: list[str], permissive: Collection[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        allowed, tokens = _parse_or(tokens[1:], permissive)
        if tokens[0] != ")":
            return False, tokens
    else:
        allowed = tokens[0] in permissive
    tokens = tokens[1:]
    if tokens and tokens[0].upper() == "WITH":
        tokens = tokens[2:]
    return allowed, tokens

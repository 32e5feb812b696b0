"""The SPDX name of a licence from its text, and of a file from its header (spdx.org)."""

from __future__ import annotations

import re

FILE_NAME = re.compile(
    r"(?!.*\.(py|js|ts|go|rs|c|h|cc|cpp|java|rb|sh|json|ya?ml|toml)$)"
    r"((un)?licen[cs]e|copying)([-_.].*)?",
    re.I,
)
_HEADER = re.compile(
    r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?:[ \t]+(?:AND|OR|WITH)[ \t]+[\w.+-]+)*|\([^)\n]*\))"
)
_HEADER_BYTES = 4096

# Phrases that all must stand in the text, in lower case and with single spaces; the first row that
# fits is the licence. The texts of the GNU licences name each other, so that their titles count.
_TITLES = {
    "AGPL-3.0-only": r"gnu affero general public license version 3",
    "LGPL-3.0-only": r"gnu lesser general public license version 3",
    "LGPL-2.1-only": r"gnu lesser general public license version 2\.1",
    "GPL-3.0-only": r"gnu general public license version 3",
    "GPL-2.0-only": r"gnu general public license version 2",
    "MPL-2.0": r"mozilla public license,? version 2\.0",
    "EPL-2.0": r"eclipse public license - v 2\.0",
    "Apache-2.0": r"apache license,? version 2\.0",
    "BSL-1.0": r"boost software license - version 1\.0",
    "CC0-1.0": r"cc0 1\.0 universal",
    "CC-BY-SA-4.0": r"attribution-sharealike 4\.0 international",
    "CC-BY-NC-4.0": r"attribution-noncommercial 4\.0 international",
    "CC-BY-4.0": r"attribution 4\.0 international",
    "PSF-2.0": r"python software foundation license version 2",
}
_NOTICE = "the above copyright notice and this permission notice"
_MIT = "permission is hereby granted, free of charge, to any person obtaining a copy"
_BSD = "redistribution and use in source and binary forms"
_ISC = "permission to use, copy, modify, and/or distribute this software for any purpose"
_PHRASES = (
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("MIT", (_MIT, _NOTICE)),
    ("MIT-0", (_MIT,)),
    ("BSD-4-Clause", (_BSD, "all advertising materials mentioning features")),
    ("BSD-3-Clause", (_BSD, "neither the name")),
    ("BSD-2-Clause", (_BSD,)),
    ("ISC", (_ISC, "provided that the above copyright notice")),
    ("0BSD", (_ISC,)),
    ("Zlib", ("altered source versions must be plainly marked as such",)),
)
_TITLE_CHARACTERS = 600


def licence_of_text(text: str) -> str:
    """The SPDX name of a licence's text, "unknown" for one that is not recognised."""
    plain = " ".join(re.sub(r"[*#=>]+|//", " ", text.lower()).split())
    for name, title in _TITLES.items():
        if re.search(title, plain[:_TITLE_CHARACTERS]):
            return name
    for name, phrases in _PHRASES:
        if all(phrase in plain for phrase in phrases):
            return name
    return "unknown"


def licence_of_header(text: str) -> str:
    """The expression behind SPDX-License-Identifier at the head of a file, "" without one."""
    found = _HEADER.search(text, 0, _HEADER_BYTES)
    return " ".join(found.group(1).split()) if found else ""

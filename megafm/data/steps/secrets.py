"""Keys, tokens and passwords that were committed by mistake, in code as in text.

The shapes are those that the issuers document; a password has none, so that it is what is assigned
to a name like it and looks random.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.steps.detectors import Detector, Near, find, replace
from megafm.data.steps.step import changed, need_between

MIN_ENTROPY = 3.0  # bits a character


def _token(pattern: str, *cues: str) -> Detector:
    return Detector(
        "KEY",
        re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.ASCII),
        cues=tuple(cue.lower() for cue in cues),
    )


def looks_random(found: str) -> bool:
    """Letters and digits of some entropy: no name, no path, no `your-password-here`."""
    counts = Counter(found).values()
    entropy = -sum(n / len(found) * math.log2(n / len(found)) for n in counts)
    mixed = any(map(str.isdigit, found)) and any(map(str.isalpha, found))
    return mixed and entropy >= MIN_ENTROPY and not found.startswith(("$", "{", "<", "%", "/"))


def _unquoted(found: str) -> bool:
    """Not a name of the program, in which a digit or none stands."""
    return looks_random(found) and sum(map(str.isdigit, found)) >= 2


NAMES = "password|passwd|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key|token"
KEYS = (
    Detector(
        "KEY",  # with all between its marks, or to the end of what can be one
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]|-(?!----)){0,20000}+(?:-----END [A-Z0-9 ]{1,50}-----)?"
        ),
        cues=("private key",),
    ),
    _token("(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}", "AKIA", "ASIA", "AROA", "AIDA"),
    _token("gh[pousr]_[A-Za-z0-9]{36,255}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    _token(r"github_pat_\w{22,255}", "github_pat_"),
    _token(r"glpat-[\w-]{20,64}", "glpat-"),
    _token("xox[abeoprs]-[0-9A-Za-z-]{10,250}", "xox"),
    _token(r"AIza[\w-]{35}", "AIza"),
    _token("[sr]k_(?:live|test)_[0-9A-Za-z]{16,250}", "k_live_", "k_test_"),
    _token(r"sk-[\w-]{20,250}", "sk-"),
    _token("hf_[A-Za-z0-9]{30,64}", "hf_"),
    _token("npm_[A-Za-z0-9]{36}", "npm_"),
    _token(r"pypi-[\w-]{50,250}", "pypi-"),
    _token(r"SG\.[\w-]{22}\.[\w-]{43}", "SG."),
    _token(r"eyJ[\w-]{10,2000}+\.eyJ[\w-]{10,4000}+\.[\w-]{10,1000}+", "eyJ"),
    Detector(
        "KEY",
        re.compile(r"://[^\s/:@]{1,64}+:(?P<found>[^\s/:@]{3,128}+)@(?=[\w.-])"),
        looks_random,
        cues=("://",),
    ),
    Detector(
        "KEY",
        re.compile(
            rf"(?:{NAMES})[\w-]{{0,20}}+[\"']?\s{{0,3}}(?::=|=>|[:=])\s{{0,3}}"
            r"[\"'](?P<found>[^\s\"']{8,200}+)[\"']",
            re.I,
        ),
        looks_random,
        cues=("passw", "pwd", "secret", "key", "token"),
        near=Near(re.compile(r"[:=>]\s{0,3}[\"'][^\s\"']{8}"), 220),
    ),
    Detector(
        "KEY",  # without quotes, to the end of the line: .env, .aws/credentials, YAML
        re.compile(
            rf"(?:{NAMES})[\w-]{{0,20}}+ {{0,3}}[:=] {{0,3}}"
            r"(?P<found>[A-Za-z0-9+/=-]{20,200}+)(?=\s|\Z)",
            re.I,
        ),
        _unquoted,
        cues=("passw", "pwd", "secret", "key", "token"),
        near=Near(re.compile(r"[:=] {0,3}[A-Za-z0-9+/=-]{20}"), 220),
    ),
)


@dataclass(frozen=True)
class Secrets:
    """Put <KEY> in the place of keys, tokens, private keys and passwords.

    Attributes:
        max_keys: a file of more is a dump of them, and dropped.
    """

    max_keys: int = 50
    version: ClassVar[str] = "secrets_v1"
    reasons: ClassVar[tuple[str, ...]] = ("secrets",)

    def __post_init__(self) -> None:
        need_between(self.version, 0, 2**40, max_keys=self.max_keys)

    def __call__(self, document: Document) -> Document | Drop:
        found = find(document.text, KEYS)
        if len(found) > self.max_keys:
            return Drop("secrets")
        return changed(document, replace(document.text, found), self.version, {"KEY": len(found)})

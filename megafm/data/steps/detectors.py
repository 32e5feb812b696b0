"""Where personal data and keys stand in a text.

A detector is a pattern, for numbers also a check, and where a number alone could be anything a
word that must stand before it. No pattern repeats without bound, and none can begin inside what it
matches, so that the time is linear in the text whatever is in it. Letters beside a match
are those of ASCII: scripts without spaces write numbers and addresses right after a letter.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megafm.data.steps import check_digits

CONTEXT = 40  # characters before a match in which a word must stand, or must not


@dataclass(frozen=True)
class Near:
    """Where it is worth looking: so many characters around what the pattern finds."""

    pattern: re.Pattern[str]
    margin: int

    def zones(self, text: str) -> list[tuple[int, int]]:
        """Spans that do not touch, in order."""
        zones: list[tuple[int, int]] = []
        for match in self.pattern.finditer(text):
            begin, end = max(0, match.start() - self.margin), match.end() + self.margin
            if zones and begin <= zones[-1][1]:
                begin = zones.pop()[0]
            zones.append((begin, min(end, len(text))))
        return zones


EVERYWHERE = Near(re.compile(r"\A"), 2**62)
DIGITS = Near(re.compile(r"[0-9](?:[^0-9\n]{0,8}[0-9]){3,}+"), 20)


@dataclass(frozen=True)
class Detector:
    """
    Attributes:
        kind: of the placeholder.
        pattern: of which the group `found`, or else all, is replaced.
        check: of the match without separators.
        cues: lower-case; without any of them in a text there is no match.
        after, not_after: must, must not stand in the CONTEXT characters before.
    """

    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] | None = None
    cues: tuple[str, ...] = ("",)
    near: Near = EVERYWHERE
    after: re.Pattern[str] | None = None
    not_after: re.Pattern[str] | None = None

    def spans(self, text: str, zones: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        group = "found" if "found" in self.pattern.groupindex else 0
        for first, last in zones:
            for match in self.pattern.finditer(text, first, last):
                begin, end = match.span(group)
                if self._holds(text[begin:end], text[max(0, begin - CONTEXT) : begin]):
                    yield begin, end

    def _holds(self, found: str, before: str) -> bool:
        if self.after is not None and self.after.search(before) is None:
            return False
        if self.not_after is not None and self.not_after.search(before) is not None:
            return False
        return self.check is None or self.check(found)


def find(text: str, detectors: Sequence[Detector]) -> list[tuple[int, int, str]]:
    """Begin, end and kind of what is found, in order; where two overlap, the first detector's."""
    lower = text.lower()
    zones: dict[Near, list[tuple[int, int]]] = {}
    taken = bytearray(len(text))
    found = []
    for detector in detectors:
        if not any(cue in lower for cue in detector.cues):
            continue
        if detector.near not in zones:
            zones[detector.near] = detector.near.zones(text)
        for begin, end in detector.spans(text, zones[detector.near]):
            if taken.find(1, begin, end) < 0:
                taken[begin:end] = b"\1" * (end - begin)
                found.append((begin, end, detector.kind))
    return sorted(found)


def replace(text: str, found: Sequence[tuple[int, int, str]]) -> str:
    """The text with <KIND> in place of what was found."""
    pieces, at = [], 0
    for begin, end, kind in found:
        pieces += [text[at:begin], f"<{kind}>"]
        at = end
    return "".join([*pieces, text[at:]])


def _compact(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda found: check(re.sub(r"[ .-]", "", found))


def _number(
    kind: str,
    pattern: str,
    check: Callable[[str], bool] | None = None,
    after: str | None = None,
    not_after: str | None = None,
) -> Detector:
    """Digits and letters that stand alone: no such letter or digit, no part of a number beside."""
    alone = rf"(?<!\w)(?<![0-9][.,:/-])(?<![+$])(?:{pattern})(?!\w|[.,:/-][0-9])"
    return Detector(
        kind,
        re.compile(alone, re.ASCII),
        _compact(check) if check else None,
        near=DIGITS,
        after=re.compile(after, re.I | re.ASCII) if after else None,
        not_after=re.compile(not_after, re.I | re.ASCII) if not_after else None,
    )


def _email(found: str) -> bool:
    """No file (logo@2x.png) and no login of a repository (git@host)."""
    name, _, host = found.rpartition("@")
    return name != "git" and host.rpartition(".")[2].lower() not in FILE_SUFFIXES


FILE_SUFFIXES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "mjs", "css", "html", "json"}


def _ip(found: str) -> bool:
    """An address of a machine: no loopback, no mask, no multicast, no `a::b` of a program, and no
    number of four digits, which is a version."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return False
    if address.version == 6:
        return len([group for group in found.split(":") if group]) >= 3
    return len(found) > 7 and not found.startswith(("0.", "255."))


def _phone(digits: str) -> bool:
    return 9 <= len(re.sub(r"\D", "", digits)) <= 13


DATE = r"\(?[0-9]{2}[./ -][0-9]{2}[./ -](?:19|20)[0-9]{2}"
ZIP_CODE = r"[0-9]{5}-[0-9]{4}(?![ -]?[0-9])"
IBANS = "|".join(
    rf"(?:{'|'.join(countries.split())})[0-9]{{2}}(?:[ -]?[A-Z0-9]){{{length - 4}}}"
    for length, countries in check_digits.IBAN_LENGTHS.items()
)
NUMBER_OF = r"(?:\W{0,3}(?:no|nr|number|num|#)?\W{0,4}|\W{1,4}is\W{1,2})$"
VERSION = r"(?:\bv|version|release|section|chapter|figure|table|build|firmware|rfc)\W{0,3}$"
TELEPHONE = r"(?:phone|tel|telephone|mobile|cell|call|fax|whatsapp|sms|text|dial|contact)\b"
DAYS = "(?:0[1-9]|[12][0-9]|3[01])"

FIRST, LAST = "(?<![0-9] )", "(?! [0-9])"  # of no row of numbers

SPACED = r"\w\u00c0-\u024f\u0370-\u04ff"  # with Latin, Greek and Cyrillic letters
NAME = rf"(?<![{SPACED}.+%-])[{SPACED}+%-](?:[{SPACED}.+%-]|'(?=[{SPACED}])){{0,63}}+"

EMAIL = (
    Detector(
        "EMAIL",
        re.compile(
            rf"{NAME}@(?:[{SPACED}](?:[{SPACED}-]{{0,62}}+)\.){{1,8}}"
            r"[A-Za-z\u0430-\u044f]{2,24}(?![\w-])",
            re.ASCII,
        ),
        _email,
        near=Near(re.compile("@"), 320),
    ),
    Detector(
        "EMAIL",
        re.compile(
            rf"{NAME} ?(?:\[at\]|\(at\)|\{{at\}}) ?"
            r"(?:[A-Za-z0-9-]{1,63}+ ?(?:\.|\[dot\]|\(dot\)|\{dot\}) ?){1,8}[A-Za-z]{2,24}(?!\w)",
            re.I | re.ASCII,
        ),
        cues=("[at]", "(at)", "{at}"),
    ),
)
IP = (
    Detector(
        "IP",
        re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])", re.ASCII),
        _ip,
        near=DIGITS,
        not_after=re.compile(VERSION, re.I),
    ),
    Detector(
        "IP",
        re.compile(
            r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.[0-9])", re.ASCII
        ),
        _ip,
        near=Near(re.compile(":[0-9A-Fa-f]{0,4}:"), 45),
    ),
)
IBAN = (_number("IBAN", rf"(?=[A-Z]{{2}}[0-9]{{2}})(?:{IBANS})", check_digits.iban),)
CARD = (
    _number(
        "CARD",
        r"[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{5}",
        check_digits.card,
    ),
)
NATIONAL = (
    _number("US_SSN", "[0-9]{3}-[0-9]{2}-[0-9]{4}", check_digits.us_ssn),
    _number(
        "US_SSN",
        "[0-9]{3}([ -]?)[0-9]{2}\\1[0-9]{4}",
        check_digits.us_ssn,
        after=rf"(?:\bssn|social security){NUMBER_OF}",
    ),
    _number(
        "UK_NINO",
        "(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?(?:[0-9]{2} ?){3}[A-D]",
    ),
    _number(
        "FR_NIR",
        r"[1-478] ?[0-9]{2} ?[0-9]{2} ?(?:2[AB]|[0-9]{2}) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
        check_digits.fr_nir,
    ),
    _number("ES_DNI", "(?:[0-9]{8}|[XYZ][ -]?[0-9]{7})[ -]?[A-HJ-NP-TV-Z]", check_digits.es_dni),
    _number(
        "IT_CODICE_FISCALE",
        "[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
        check_digits.it_codice_fiscale,
    ),
    _number("BR_CPF", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", check_digits.br_cpf),
    _number("BR_CPF", "[0-9]{11}", check_digits.br_cpf, after=rf"\bcpf{NUMBER_OF}"),
    _number(
        "IN_AADHAAR", "[0-9]{4}([ -])[0-9]{4}\\1[0-9]{4}(?![ -][0-9])", check_digits.in_aadhaar
    ),
    _number("IN_AADHAAR", "[0-9]{12}", check_digits.in_aadhaar, after=rf"aadhaar{NUMBER_OF}"),
    _number(
        "NL_BSN",
        r"[0-9]{9}|[0-9]{4}[ .][0-9]{2}[ .][0-9]{3}",
        check_digits.nl_bsn,
        after=rf"(?:\bbsn|burgerservicenummer|sofinummer){NUMBER_OF}",
    ),
    _number("DE_TAX_ID", "[1-9][0-9]( ?)[0-9]{3}\\1[0-9]{3}\\1[0-9]{3}", check_digits.de_tax_id),
    _number("PL_PESEL", f"[0-9]{{4}}{DAYS}[0-9]{{5}}", check_digits.pl_pesel),
)
PHONE = (
    Detector(
        "PHONE",
        re.compile(
            r"(?<![\w+])(?:\+[1-9][0-9]{0,2}|(?<![0-9][.,/ -])00[1-9][0-9]{0,2}[ ./-])"
            r"(?:[ ./-]?\(?[0-9]\)?){6,12}(?!\w)",
            re.ASCII,
        ),
        near=DIGITS,
    ),
    _number(
        "PHONE",
        r"(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}"
        r"|[2-9][0-9]{2}(?P<by>[.-])[2-9][0-9]{2}(?P=by)[0-9]{4})",
    ),
    _number("PHONE", f"{FIRST}[2-9][0-9]{{2}} [2-9][0-9]{{2}} [0-9]{{4}}{LAST}"),
    _number(
        "PHONE",
        FIRST
        + rf"(?!{DATE}|{ZIP_CODE})"
        + r"\(?0[1-9][0-9]{0,4}\)?[ /-]{1,3}[0-9]{2,8}(?:[ -][0-9]{2,4}){0,5}"
        + LAST,
        _phone,
    ),
    _number(
        "PHONE",
        r"0[1-9](?:\.[0-9]{2}){4}|[0-9]{9,11}",
        after=rf"{TELEPHONE}[^0-9\n]{{0,12}}$",
    ),
)

"""Check digits of cards, accounts and national identity numbers.

Each function takes the characters without separators and says whether they can be a number that
was issued. The rules are those of the issuing authorities, as cited.
"""

from __future__ import annotations

from collections import Counter

IBAN_LENGTHS = {  # ISO 13616 registry
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    33: "RU",
}
CARD_PREFIXES = {
    13: ("4",),
    14: ("30", "36", "38", "39"),
    15: ("34", "37"),
    16: ("4", "51", "52", "53", "54", "55", *map(str, range(22, 28)), "35", "6"),
    17: ("6",),
    18: ("6",),
    19: ("4", "6"),
}
VERHOEFF = (  # the powers of a permutation
    *("0123456789", "1576283094", "5803796142", "8916043527"),
    *("9453126870", "4286573901", "2793806415", "7046913258"),
)
NIF_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
# Values of the odd places of a codice fiscale; digits count as the letters A to J.
CODICE_ODD = (
    *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25),
    *(24, 23),
)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def card(digits: str) -> bool:
    """A number of a card network by its first digits and its length (ISO/IEC 7812-1)."""
    return digits.startswith(CARD_PREFIXES[len(digits)]) and luhn(digits)


def iban(text: str) -> bool:
    """ISO 7064 MOD 97-10 over the digits, letters as 10 to 35; check digits are 02 to 98."""
    moved = text[4:] + text[:4]
    rest = int("".join(str(int(character, 36)) for character in moved)) % 97
    return rest == 1 and "02" <= text[2:4] <= "98"


def us_ssn(digits: str) -> bool:
    """No area 000, 666 or 9xx, no group 00, no serial 0000 (SSA, since 2011)."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def de_tax_id(digits: str) -> bool:
    """Steuerliche Identifikationsnummer: ISO 7064 MOD 11,10; one digit twice or thrice in ten."""
    most = sorted(Counter(digits[:10]).values())[-2:]
    if digits[0] == "0" or most[-1] not in (2, 3) or most[0] != 1:
        return False
    product = 10
    for digit in map(int, digits[:10]):
        total = (digit + product) % 10 or 10
        product = 2 * total % 11
    return (11 - product) % 10 == int(digits[10])


def fr_nir(text: str) -> bool:
    """Numero d'inscription au repertoire: key of 97 less the rest of the division by it (INSEE)."""
    number = text[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(text[13:])


def es_dni(text: str) -> bool:
    """DNI and NIE: a letter by the rest of the division by 23."""
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return NIF_LETTERS[int(number) % 23] == text[-1]


def it_codice_fiscale(text: str) -> bool:
    """A letter by the sum of values of the odd and the even places (DM 23/12/1976)."""
    values = [int(c) if c.isdigit() else ord(c) - ord("A") for c in text[:15]]
    total = sum(CODICE_ODD[value] for value in values[::2]) + sum(values[1::2])
    return chr(ord("A") + total % 26) == text[15]


def nl_bsn(digits: str) -> bool:
    """Eleven test: weights 9 to 2 and -1."""
    total = sum(w * int(d) for w, d in zip((9, 8, 7, 6, 5, 4, 3, 2, -1), digits, strict=True))
    return total % 11 == 0 and int(digits) > 0


def pl_pesel(digits: str) -> bool:
    """A date of birth, its century in the month, and weights 1, 3, 7, 9."""
    month, day = int(digits[2:4]) % 20, int(digits[4:6])
    total = sum(w * int(d) for w, d in zip((1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), digits, strict=True))
    return 1 <= month <= 12 and 1 <= day <= 31 and total % 10 == 0


def br_cpf(digits: str) -> bool:
    """Two digits modulo 11; no digit repeated (Receita Federal)."""
    for length in (9, 10):
        total = sum((length + 1 - i) * int(digit) for i, digit in enumerate(digits[:length]))
        if 10 * total % 11 % 10 != int(digits[length]):
            return False
    return len(set(digits)) > 1


def in_aadhaar(digits: str) -> bool:
    """Twelve digits from 2 on, the last by Verhoeff's scheme (1969), in the dihedral group D5."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = _dihedral(check, int(VERHOEFF[place % 8][int(digit)]))
    return digits[0] in "23456789" and check == 0


def _dihedral(one: int, two: int) -> int:
    """The product in D5: 0 to 4 turn a pentagon, 5 to 9 reflect it."""
    if one < 5:
        return (one + two) % 5 if two < 5 else 5 + (one + two) % 5
    return 5 + (one - two) % 5 if two < 5 else (one - two) % 5

"""Made-up personal data in the forms that people write, and decoys that look like it.

Numbers have the check digits of the real ones, found by trying; none belongs to anybody by intent.
"""

from __future__ import annotations

import ipaddress
import random
import string
import uuid
from collections.abc import Callable

from megafm.data.steps import check_digits

Make = Callable[[random.Random], str]
HOSTS = ("example.com", "mail.example.org", "post.co.uk", "uni-bonn.de", "x1.io", "my-firm.museum")


def digits(rng: random.Random, count: int, first: str = string.digits) -> str:
    return rng.choice(first) + "".join(rng.choices(string.digits, k=count - 1))


def letters(rng: random.Random, count: int, among: str = string.ascii_lowercase) -> str:
    return "".join(rng.choices(among, k=count))


def passing(make: Make, check: Callable[[str], bool]) -> Make:
    """The first of what `make` gives that passes."""

    def one(rng: random.Random) -> str:
        while not check(found := make(rng)):
            pass
        return found

    return one


def grouped(text: str, *sizes: int, by: str = " ") -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return by.join(parts)


def email(rng: random.Random) -> str:
    name = rng.choice(
        [letters(rng, 6), f"{letters(rng, 4)}.{letters(rng, 7)}", f"a+{digits(rng, 2)}"]
    )
    host = rng.choice(HOSTS)
    if rng.random() < 0.1:
        return f"{name} [at] {host.replace('.', ' [dot] ')}"
    return f"{name}@{host}".upper() if rng.random() < 0.05 else f"{name}@{host}"


def phone(rng: random.Random) -> str:
    a, b, c = digits(rng, 3, "23456789"), digits(rng, 3, "23456789"), digits(rng, 4)
    return rng.choice([
        f"({a}) {b}-{c}", f"{a}-{b}-{c}", f"{a}.{b}.{c}", f"+1 {a} {b} {c}", f"1-{a}-{b}-{c}",
        f"+1{a}{b}{c}", f"+44 20 {digits(rng, 4)} {c}", f"+49 (0)30 {digits(rng, 6)}",
        f"0049 171 {digits(rng, 7)}", f"020 {digits(rng, 4)} {c}", f"030/{digits(rng, 7)}",
        f"0171-{digits(rng, 7)}", "0" + grouped(digits(rng, 9, "12345679"), 1, 2, 2, 2, 2),
        f"+33 6 {grouped(digits(rng, 8), 2, 2, 2, 2)}", f"+91 {digits(rng, 5)} {digits(rng, 5)}",
        f"+55 11 9{digits(rng, 4)}-{c}", f"phone: {a}{b}{c}", f"Tel. {digits(rng, 10, '2')}",
    ])  # fmt: skip


def ip(rng: random.Random) -> str:
    four = ".".join(str(rng.randint(1, 223)) for _ in range(4)).replace("127.", "128.", 1)
    six = ipaddress.IPv6Address((0x2001 << 112) + rng.getrandbits(100))
    return rng.choice([four, four, six.compressed, six.exploded])


def card(rng: random.Random) -> str:
    prefix, length = rng.choice([("4", 16), ("5" + digits(rng, 1, "12345"), 16), ("37", 15)])
    make = passing(lambda r: prefix + digits(r, length - len(prefix)), check_digits.card)
    number = make(rng)
    by = rng.choice(["", " ", "-"])
    return grouped(number, *((4, 4, 4, 4) if length == 16 else (4, 6, 5)), by=by)


def iban(rng: random.Random) -> str:
    length, countries = rng.choice(list(check_digits.IBAN_LENGTHS.items()))
    country = rng.choice(countries.split())
    account = digits(rng, length - 4)
    number = next(
        text for check in range(2, 99) if check_digits.iban(text := f"{country}{check:02}{account}")
    )
    return (
        " ".join(number[i : i + 4] for i in range(0, length, 4)) if rng.random() < 0.5 else number
    )


def us_ssn(rng: random.Random) -> str:
    number = passing(lambda r: digits(r, 9), check_digits.us_ssn)(rng)
    parted = grouped(number, 3, 2, 4, by="-")
    return rng.choice([parted, parted, f"SSN {number}", f"Social Security Number: {number}"])


def uk_nino(rng: random.Random) -> str:
    number = rng.choice(["AB", "CE", "JK", "PX", "SZ"]) + digits(rng, 6) + rng.choice("ABCD")
    return rng.choice([number, grouped(number, 2, 2, 2, 2, 1)])


def de_tax_id(rng: random.Random) -> str:
    number = passing(
        lambda r: letters(r, 0) + "".join(r.sample("123456789", 9)) + digits(r, 2),
        check_digits.de_tax_id,
    )(rng)
    return rng.choice([number, grouped(number, 2, 3, 3, 3)])


def fr_nir(rng: random.Random) -> str:
    born = f"{rng.choice('12')}{digits(rng, 2)}{rng.randint(1, 12):02}"
    place = rng.choice(["2A", "2B", f"{rng.randint(1, 95):02}"])
    number = passing(lambda r: f"{born}{place}{digits(r, 8)}", check_digits.fr_nir)(rng)
    return rng.choice([number, grouped(number, 1, 2, 2, 2, 3, 3, 2)])


def es_dni(rng: random.Random) -> str:
    first = rng.choice(["", "X", "Y", "Z"])
    make = lambda r: first + digits(r, 7 + (not first)) + r.choice(check_digits.NIF_LETTERS)  # noqa: E731
    number = passing(make, check_digits.es_dni)(rng)
    return rng.choice([number, f"{number[:-1]}-{number[-1]}"])


def it_codice_fiscale(rng: random.Random) -> str:
    def make(r: random.Random) -> str:
        upper = string.ascii_uppercase
        born = f"{digits(r, 2)}{r.choice('ABCDEHLMPRST')}{r.randint(1, 71):02}"
        return letters(r, 6, upper) + born + r.choice(upper) + digits(r, 3) + r.choice(upper)

    return passing(make, check_digits.it_codice_fiscale)(rng)


def nl_bsn(rng: random.Random) -> str:
    number = passing(lambda r: digits(r, 9), check_digits.nl_bsn)(rng)
    return rng.choice(["BSN: ", "bsn ", "burgerservicenummer "]) + number


def pl_pesel(rng: random.Random) -> str:
    born = f"{digits(rng, 2)}{rng.randint(1, 12) + rng.choice([0, 20]):02}{rng.randint(1, 28):02}"
    return passing(lambda r: born + digits(r, 5), check_digits.pl_pesel)(rng)


def br_cpf(rng: random.Random) -> str:
    number = passing(lambda r: digits(r, 11), check_digits.br_cpf)(rng)
    parted = f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"
    return rng.choice([parted, parted, f"CPF {number}"])


def in_aadhaar(rng: random.Random) -> str:
    number = passing(lambda r: digits(r, 12), check_digits.in_aadhaar)(rng)
    return rng.choice([grouped(number, 4, 4, 4), f"Aadhaar no. {number}"])


def key(rng: random.Random) -> str:
    alphabet = string.ascii_letters + string.digits
    block = "\n".join(letters(rng, 64, alphabet) for _ in range(5))
    head, body, signature = (letters(rng, count, alphabet) for count in (30, 60, 43))
    jwt = f"eyJ{head}.eyJ{body}.{signature}"
    return rng.choice([
        "AKIA" + letters(rng, 16, string.ascii_uppercase + string.digits),
        "ghp_" + letters(rng, 36, alphabet), "github_pat_" + letters(rng, 60, alphabet),
        "glpat-" + letters(rng, 20, alphabet), "xoxb-" + digits(rng, 12) + "-" + letters(rng, 24),
        "AIza" + letters(rng, 35, alphabet), "sk_live_" + letters(rng, 24, alphabet),
        "sk-proj-" + letters(rng, 48, alphabet), "hf_" + letters(rng, 34, alphabet), jwt,
        f"-----BEGIN RSA PRIVATE KEY-----\n{block}\n-----END RSA PRIVATE KEY-----",
        f'api_key = "{letters(rng, 16, alphabet)}7aB9zQ"',
        f"https://user:{letters(rng, 12, alphabet)}7aB9zQ@db.example.org/",
    ])  # fmt: skip


PLANTS: dict[str, Make] = {
    **{"EMAIL": email, "PHONE": phone, "IP": ip, "CARD": card, "IBAN": iban, "KEY": key},
    **{"US_SSN": us_ssn, "UK_NINO": uk_nino, "DE_TAX_ID": de_tax_id, "FR_NIR": fr_nir},
    **{"ES_DNI": es_dni, "IT_CODICE_FISCALE": it_codice_fiscale, "NL_BSN": nl_bsn},
    **{"PL_PESEL": pl_pesel, "BR_CPF": br_cpf, "IN_AADHAAR": in_aadhaar},
}


def number(rng: random.Random, *counts: int, by: str = "-") -> str:
    """Groups of digits, parted."""
    return by.join(digits(rng, count) for count in counts)


def version(rng: random.Random) -> str:
    return ".".join(str(rng.randint(0, 20)) for _ in range(4))


def date(rng: random.Random) -> str:
    year, month, day = rng.randint(1900, 2030), rng.randint(1, 12), rng.randint(1, 28)
    parts = f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year} 10:30"
    return rng.choice([*parts, f"{month:02}/{day:02}/{year}"])


DECOYS: dict[str, Make] = {
    "date": date,
    "time": lambda r: f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}.123",
    "timestamp": lambda r: f"1{digits(r, 9)}",
    "years": lambda r: f"{r.randint(1900, 2000)}-{r.randint(2001, 2030)}, pp. {number(r, 3, 3)}",
    "price": lambda r: f"${r.randint(1, 999)},{digits(r, 3)}.{digits(r, 2)}",
    "thousands": lambda r: number(r, 1, 3, 3, by=","),
    "decimal": lambda r: f"0.{digits(r, 16)}",
    "order": lambda r: f"order {digits(r, r.randint(6, 12))}",
    "bare_number": lambda r: digits(r, r.randint(7, 19), "123456789"),
    "table_row": lambda r: " ".join(digits(r, r.randint(1, 5)) for _ in range(8)),
    "version": lambda r: f"version {version(r)}",
    "fixed_in": lambda r: f"fixed in {number(r, 1, 1, 1, 1, by='.')}",
    "zip_code": lambda r: f"Boston, MA 0{digits(r, 4, '123456789')}-{digits(r, 4)}",
    "clause": lambda r: f"252.227-{digits(r, 4)}",
    "isbn": lambda r: f"978-{number(r, 1, 4, 4, 1)}",
    "doi": lambda r: f"10.{digits(r, 4)}/{letters(r, 5)}.{digits(r, 4)}",
    "arxiv": lambda r: f"arXiv:{number(r, 4, 5, by='.')}",
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128))),
    "sha1": lambda r: f"{r.getrandbits(160):040x}",
    "mac": lambda r: ":".join(f"{r.getrandbits(8):02x}" for _ in range(6)),
    "colour": lambda r: f"#{r.getrandbits(24):06x}",
    "coordinates": lambda r: f"{r.uniform(-90, 90):.6f}, {r.uniform(-180, 180):.6f}",
    "cpp": lambda r: f"std::{letters(r, 5)}::{letters(r, 3)}(a::b)",
    "decorator": lambda r: f"@{letters(r, 6)}.{letters(r, 4)}",
    "handle": lambda r: f"@{letters(r, 6)}{digits(r, 2)}",
    "image": lambda r: f"{letters(r, 5)}@2x.png",
    "repository": lambda r: f"git@github.com:{letters(r, 5)}/{letters(r, 5)}.git",
    "package": lambda r: f"{letters(r, 5)}@{number(r, 1, 1, 2, by='.')}",
    "wrong_card": passing(lambda r: f"4{digits(r, 15)}", lambda text: not check_digits.luhn(text)),
    "wrong_iban": lambda r: f"DE00{digits(r, 18)}",
    "loopback": lambda r: r.choice(["127.0.0.1", "0.0.0.0", "255.255.255.0", "::1"]),
    "placeholder_key": lambda r: f'api_key = "{r.choice(["your-api-key-here", "CHANGE_ME"])}"',
    "part_number": lambda r: f"{letters(r, 2, string.ascii_uppercase)}-{number(r, 4, 3)}",
}

SENTENCES = (
    "You will find {} in the second paragraph.",
    "See {}, as agreed.",
    "({})",
    "It said: {}.",
    "{}\n",
    "The value '{}' was written down by the clerk, who left early.",
)


def sentence(rng: random.Random, make: Make) -> tuple[str, str]:
    """A sentence with one of them, and the one."""
    found = make(rng)
    return rng.choice(SENTENCES).format(found), found

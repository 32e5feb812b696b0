"""Personal data and keys: found when planted, left alone when only alike, in linear time."""

from __future__ import annotations

import random
import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data import pii as benchmark
from benchmarks.data.planted import DECOYS, PLANTS, sentence
from megafm.data.document import Drop
from megafm.data.steps import check_digits, detectors, presidio
from megafm.data.steps.pii import DETECTORS, KINDS, PII
from megafm.data.steps.secrets import Secrets, looks_random
from tests.data.helpers import document

quick = settings(deadline=None, max_examples=40)


def redact(text: str) -> str:
    return PII()(document("a.txt", text)).text


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [  # the examples of the standards, of Wikipedia and of the authorities
        (check_digits.luhn, "79927398713", "79927398710"),
        (check_digits.card, "4111111111111111", "4111111111111112"),
        (check_digits.card, "378282246310005", "118282246310005"),
        (check_digits.iban, "GB82WEST12345698765432", "GB83WEST12345698765432"),
        (check_digits.iban, "DE89370400440532013000", "DE89370400440532013001"),
        (check_digits.us_ssn, "078051120", "666051120"),
        (check_digits.us_ssn, "899051120", "078001120"),
        (check_digits.de_tax_id, "86095742719", "86095742718"),
        (check_digits.de_tax_id, "65929970489", "12345678901"),
        (check_digits.fr_nir, "255081416802538", "255081416802539"),
        (check_digits.es_dni, "12345678Z", "12345678A"),
        (check_digits.es_dni, "X1234567L", "X1234567M"),
        (check_digits.it_codice_fiscale, "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
        (check_digits.nl_bsn, "111222333", "111222334"),
        (check_digits.pl_pesel, "44051401359", "44051401358"),
        (check_digits.pl_pesel, "02070803628", "02330803628"),
        (check_digits.br_cpf, "52998224725", "52998224726"),
        (check_digits.br_cpf, "11144477735", "11111111111"),
        (check_digits.in_aadhaar, "234123412346", "234123412347"),
    ],
)
def test_check_digits(check, good, bad):
    assert check(good) and not check(bad)


@pytest.mark.parametrize("kind", PLANTS)
def test_recall_of_planted_data(kind):
    row = benchmark.recall(random.Random(kind), kind, 200)
    assert row["recall"] >= benchmark.BAR, row["missed"]


@pytest.mark.parametrize("kind", PLANTS)
def test_scripts_without_spaces_part_nothing_from_what_stands_beside(kind):
    rng = random.Random(kind)
    for _ in range(50):
        around = "\u8acb\u806f\u7d61{}\u8b1d\u8b1d"
        found = redact(around.format(PLANTS[kind](rng)))
        assert re.fullmatch(around.format(r"(?s:.*<[A-Z_]+>.*)"), found), found


@pytest.mark.parametrize(
    "name",
    [
        "john.o'neil@example.com",
        "m\u00fcller@b\u00fccher.de",
        "\u0438\u043c\u044f@\u043f\u043e\u0447\u0442\u0430.\u0440\u0444",
    ],
)
def test_addresses_of_other_letters(name):
    assert redact(f"Mail '{name}', or {name}.") == "Mail '<EMAIL>', or <EMAIL>."


def test_decoys_are_left_alone():
    taken = benchmark.decoys(random.Random(1), 60)
    chance = {"order", "bare_number", "table_row"}  # numbers that pass a check digit by chance
    assert {name for name, kinds in taken.items() if kinds} <= chance
    assert sum(sum(taken[name].values()) for name in chance) <= 0.02 * 60 * len(DECOYS)


def test_every_kind_is_planted_and_switched_on():
    assert set(PLANTS) == set(KINDS)
    text, plant = "mail a.b@example.com or 4111 1111 1111 1111", "a.b@example.com"
    assert PII(kinds=("CARD",))(document("a", text)).text == f"mail {plant} or <CARD>"
    with pytest.raises(ValueError, match=r"kinds=NAME: set some of .*EMAIL"):
        PII(kinds=("NAME",))


@quick
@given(st.sampled_from(sorted(PLANTS)), st.integers(0, 10**9), st.text(max_size=30))
def test_a_plant_in_any_text_is_found(kind, seed, around):
    around = re.sub(r"[\w.,:/+$@-]", " ", around)
    plant = PLANTS[kind](random.Random(seed))
    found = redact(f"{around} x {plant} y {around}")
    assert f"<{kind}>" in found or found.count("<") > around.count("<") * 2


@quick
@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(list(PLANTS))), max_size=8))
def test_what_is_not_redacted_stays_as_it_is(parts):
    rng = random.Random(0)
    text = " ".join(sentence(rng, PLANTS[p])[0] if p in PLANTS else p for p in parts)
    found = detectors.find(text, DETECTORS)
    assert all(begin < end for begin, end, _ in found)
    assert all(one[1] <= two[0] for one, two in pairwise(found))
    kept = re.split("<(?:" + "|".join(KINDS) + ")>", detectors.replace(text, found))
    at = 0
    for piece in kept:
        at = text.index(piece, at) + len(piece)


def test_of_two_that_overlap_the_first_detectors_counts():
    """The end of a password, @ and a host are an address too."""
    text = "https://u:aB3dE5fG7h@db.example.org/"
    assert redact(text) == "https://u:<KEY>@db.example.org/"
    assert PII(kinds=("EMAIL",))(document("a", text)).text == "https://u:<EMAIL>/"


def test_counts_by_kind():
    text = "a@b.org, c@d.org, 10.1.2.3 and +49 30 1234567"
    result = PII()(document("a.txt", text))
    assert result.text == "<EMAIL>, <EMAIL>, <IP> and <PHONE>"
    assert result.notes["counts"] == {"pii_v1": {"EMAIL": 2, "IP": 1, "PHONE": 1}}
    assert PII()(result) is result


BEGINNINGS = ["a", "1", "1 ", "1.", "a@", "a.", "a@a.", ":", "1:", "-----BEGIN PRIVATE KEY-----"]
BEGINNINGS += ["eyJ", "-eyJ", "+1", "(0", "token", 'token="', "://a:", "0 ", "AB12 ", "[at]", "sk-"]
BEGINNINGS += [
    "password = '",
    "xoxb-",
    "1111 ",
    "00",
    "\n",
    "((((",
    "@",
    "- ",
    "ghp_",
    "a[at]",
    "a'",
    "key=",
]


@pytest.mark.parametrize("unit", BEGINNINGS)
def test_a_long_text_of_what_patterns_begin_with_ends(unit):
    """Quadratic time would be minutes."""
    redact(unit * (100_000 // len(unit)))


def test_a_megabyte_of_all_of_them_ends():
    redact("".join(unit * (35_000 // len(unit)) for unit in BEGINNINGS))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.kind)
def test_no_pattern_repeats_without_bound(detector):
    pattern = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", detector.pattern.pattern)
    assert not re.search(r"[*]|(?<!\})\+|,\}", pattern), pattern
    bounds = [int(most) for most in re.findall(r"\{\d+,(\d+)\}(?!\+)", pattern)]
    assert all(most <= 600 for most in bounds), "a long one must be possessive"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('password = "correct7horse9Battery"', 'password = "<KEY>"'),
        ("token: 'aB3dE5fG7hJ9kL'", "token: '<KEY>'"),
        ('password = "changeme"', 'password = "changeme"'),
        ('token = "$GITHUB_TOKEN_2"', 'token = "$GITHUB_TOKEN_2"'),
        ("token_count = 12345678", "token_count = 12345678"),
        ("SECRET_KEY=wJalrXUtn3EMI/K7MDENG/bPxRfi\n", "SECRET_KEY=<KEY>\n"),
        ("auth_token: 8f14e45fceea167a5a36dedd4bea2543", "auth_token: <KEY>"),
        ("secret = SomeLongNameOfAClassVersion2", "secret = SomeLongNameOfAClassVersion2"),
        ("token = tokenizer.convert_ids_12_34(ids)", "token = tokenizer.convert_ids_12_34(ids)"),
        ("postgres://me:aB3dE5fG7h@host/db", "postgres://me:<KEY>@host/db"),
        ("https://example.org:8080/a@b", "https://example.org:8080/a@b"),
    ],
)
def test_passwords_are_what_looks_random(text, expected):
    assert Secrets()(document("a.py", text)).text == expected


def test_a_private_key_goes_whole_and_a_file_of_keys_goes():
    block = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIGl\nab-cd==\n-----END EC PRIVATE KEY-----"
    assert Secrets()(document("a", f"x\n{block}\ny")).text == "x\n<KEY>\ny"
    assert Secrets(max_keys=1)(document("a", f"{block}\n{block}")) == Drop("secrets")
    assert looks_random("aB3dE5fG7hJ9") and not looks_random("aaaa1111")


def test_presidio_is_a_plug_in(monkeypatch):
    presidio._analyzer.cache_clear()
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ValueError, match="presidio_v1: needs presidio_analyzer; pip install"):
        presidio.Presidio()(document("a", "Ann"))

    class Engine:
        def analyze(self, text, language, entities, score_threshold):
            assert (language, entities, score_threshold) == ("en", ["PERSON", "LOCATION"], 0.6)
            spans = [(0, 3, "PERSON"), (2, 3, "LOCATION"), (9, 15, "LOCATION")]
            return [SimpleNamespace(start=b, end=e, entity_type=kind) for b, e, kind in spans]

    monkeypatch.setitem(sys.modules, "presidio_analyzer", SimpleNamespace(AnalyzerEngine=Engine))
    result = presidio.Presidio()(document("a", "Ann from London"))
    assert result.text == "<PERSON> from <LOCATION>"
    presidio._analyzer.cache_clear()

"""Mixtures against numbers computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafm.data.blend import parts as blend_parts
from megafm.data.mixture import Mixture, Part, Share, Stage, blend, curriculum, fill, mix

SHARES = {"web": 45, "code": 20, "academic": 10, "books": 10, "structured": 10, "dialogue": 5}
PARTS = [Part(f"data/{name}", 1000, domain=name) for name in SHARES]


def weights(shares: list[Share]) -> dict[str, float]:
    return {share.part.dir.rpartition("/")[2]: round(share.weight, 6) for share in shares}


def epochs(shares: list[Share]) -> list[float]:
    return [round(share.epochs, 6) for share in shares]


def test_stated_shares_and_what_they_take_of_each():
    shares = mix(PARTS, Mixture(weights=SHARES), 2000)
    assert weights(shares) == {name: share / 100 for name, share in SHARES.items()}
    assert epochs(shares) == [0.9, 0.4, 0.2, 0.2, 0.2, 0.1]
    parts = blend(shares)
    assert [(part.dir, part.weight) for part in parts][:2] == [
        ("data/web", 0.45),
        ("data/code", 0.2),
    ]
    assert sum(blend_parts([part.weight for part in parts])) == 20


def test_a_cap_moves_what_is_over_to_the_others_in_their_proportions():
    # Web may give 1000 of its 1800; the other 3000 are shared 20 : 10 : 10 : 10 : 5 of 55, so that
    # code has 3000 * 20 / 55 = 1090.9, above its 1000 too; the last 2000 go 10 : 10 : 10 : 5.
    shares = mix(PARTS, Mixture(weights=SHARES, max_epochs=1), 4000)
    expected = {"web": 0.25, "code": 0.25, "academic": 1 / 7, "books": 1 / 7}
    expected |= {"structured": 1 / 7, "dialogue": 1 / 14}
    assert weights(shares) == pytest.approx(expected, abs=1e-6)


def test_within_a_group_the_others_of_the_group_go_first():
    parts = [Part("a", 100, domain="x"), Part("b", 300, domain="x"), Part("c", 1000, domain="y")]
    # Of 800, x has 400, which is all of both; a share of 100 and 300 by size.
    assert epochs(mix(parts, Mixture(weights={"x": 1, "y": 1}, max_epochs=1), 800)) == [1, 1, 0.4]
    # With more epochs a share of 400 goes 100 : 300, and at T = 2 as 10 : 17.32, 146.4 : 253.6.
    even = Mixture(weights={"x": 1, "y": 1}, temperature=2)
    assert [round(share.tokens, 1) for share in mix(parts, even, 800)] == [146.4, 253.6, 400]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [0.8, 0.2]), (2.0, [2 / 3, 1 / 3]), (1e9, [0.5, 0.5])],
)
def test_temperature_between_languages(temperature, expected):
    parts = [Part("en", 1600, language="en"), Part("de", 400, language="de")]
    shares = mix(parts, Mixture("language", temperature=temperature), 100)
    assert [share.weight for share in shares] == pytest.approx(expected, abs=1e-6)


def test_stages_share_the_cap():
    parts = [Part("web", 1000, domain="web"), Part("math", 100, domain="math")]
    plan = curriculum(
        parts,
        [
            Stage("main", 1000, Mixture(weights={"web": 0.7, "math": 0.3}, max_epochs=4)),
            Stage("anneal", 400, Mixture(weights={"web": 0.5, "math": 0.5}, max_epochs=4)),
        ],
    )
    assert epochs(plan["main"]) == [0.7, 3.0]
    assert epochs(plan["anneal"]) == [0.3, 1.0]  # of 200 asked for, 100 are left
    assert weights(plan["anneal"]) == {"web": 0.75, "math": 0.25}


@pytest.mark.parametrize(
    ("mixture", "tokens", "message"),
    [
        (
            Mixture(weights={"web": 1}),
            10,
            "differ in 'academic'; set a weight for each of",
        ),
        (Mixture(weights=SHARES | {"x": 1}), 10, "differ in 'x'"),
        (Mixture(max_epochs=1), 6001, "only 6000 are left; set max_epochs=1.01 or more"),
        (Mixture(), 0, "stage all: tokens=0: must be positive"),
    ],
)
def test_what_cannot_be_mixed(mixture, tokens, message):
    with pytest.raises(ValueError, match=message):
        mix(PARTS, mixture, tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"web": 0}}, "mixture.weights.web=0: must be a number above 0"),
        ({"temperature": 0}, "mixture.temperature=0: must be positive"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**settings)


SIZES = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 100)), min_size=1, max_size=8)


@given(SIZES, st.floats(0, 1))
def test_filling_gives_all_and_nobody_too_much(pairs, share):
    targets, rooms = zip(*pairs, strict=True)
    total = share * sum(rooms)
    given = fill(targets, rooms, total)
    assert sum(given) == pytest.approx(total, abs=1e-6)
    assert all(one <= room + 1e-6 for one, room in zip(given, rooms, strict=True))

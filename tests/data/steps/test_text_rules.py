"""The rules of Gopher, C4, FineWeb and RefinedWeb on texts whose values are counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megafm.data.document import Document, Drop
from megafm.data.steps import registry
from megafm.data.steps.boilerplate import Boilerplate, RepeatedLines
from megafm.data.steps.c4 import C4Lines, C4Page, C4Signal
from megafm.data.steps.fineweb import FineWeb, LineSignal
from megafm.data.steps.gopher import GopherQuality, GopherRepetition, GopherSignal
from megafm.data.steps.pipeline import compare
from megafm.data.steps.step import Rule
from tests.data.helpers import document


def words(count: int, length: int = 5) -> str:
    """Words that are all different, of so many letters."""
    return " ".join(
        "".join(chr(97 + i // 26**place % 26) for place in range(4)).ljust(length, "x")[:length]
        for i in range(count)
    )


def decide(rule: Rule, text: str) -> str | None:
    return rule(rule.signal()(document("a.txt", text)))


STOP = "the and "

# Rae et al. 2021, A.1.1: 50 to 100,000 words; mean length 3 to 10; symbols per word above 0.1; 90%
# of lines with a bullet, 30% with an ellipsis; 80% of words with a letter; 2 of 8 stop words.
GOPHER = [
    (STOP + words(48), None),
    (STOP + words(47), "gopher_too_short"),
    (STOP + words(99_998), None),
    (STOP + words(99_999), "gopher_too_long"),
    (STOP + words(60, 2), "gopher_word_length"),  # (6 + 120) / 62 = 2.03
    (STOP + words(60, 11), "gopher_word_length"),  # (6 + 660) / 62 = 10.7
    (STOP + words(58) + "#" * 6, None),  # 6 / 60
    (STOP + words(58) + "#" * 7, "gopher_symbols"),
    (STOP + words(58) + " a..." * 7, "gopher_symbols"),  # 7 / 67
    ("\n".join(["- " + STOP + words(9)] * 9 + [words(9)]), None),  # 9 of 10 lines, not above 0.9
    ("\n".join(["- " + STOP + words(9)] * 10 + [words(9)]), "gopher_bullets"),  # 10 of 11
    ("\n".join([STOP + words(15) + "..."] * 3 + [STOP + words(15)] * 7), None),
    ("\n".join([STOP + words(15) + "…"] * 4 + [STOP + words(15)] * 6), "gopher_ellipses"),
    (STOP + words(46) + " 12345" * 12, None),  # 48 of 60
    (STOP + words(45) + " 12345" * 13, "gopher_alphabetic"),
    ("the the " + words(60), "gopher_stop_words"),
]


@pytest.mark.parametrize(("text", "expected"), GOPHER)
def test_gopher_quality(text, expected):
    assert decide(GopherQuality(), text) == expected


# Table A1. Lines are of 20 characters, so that counts are shares.
LINES = ["".join(chr(97 + (7 * i + 3 * j) % 26) for j in range(20)) for i in range(20)]
NO_GRAMS = GopherRepetition(max_top_grams=(1.0, 1.0, 1.0), max_duplicate_grams=(1.0,) * 6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 2 of 10 lines again: 0.2 of the lines, 40 / 209 of the characters.
        ("\n".join(LINES[:8] + LINES[:2]), None),
        # 3 of 10: 0.3 is not above, but 60 / 209 of the characters is.
        ("\n".join(LINES[:7] + LINES[:3]), "gopher_duplicate_lines"),
        # Paragraphs of two lines, their lines in another order: 0.5 of the lines, no paragraph.
        ("a\nb\n\nb\na\n\n" + "x" * 99, "gopher_duplicate_lines"),
        # 4 of 12 paragraphs are above 0.3, of a character each; 4 of 24 lines are not.
        (
            "\n\n".join(["x"] * 5 + [f"{line}\n{line[::-1]}\n." + line for line in LINES[:7]]),
            "gopher_duplicate_paragraphs",
        ),
    ],
)
def test_gopher_lines_and_paragraphs(text, expected):
    assert decide(NO_GRAMS, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # "ab cd" five times in 53 characters, 20 of them: 0.38 above 0.2.
        ("ab cd x ab cd y ab cd z ab cd w ab cd vvvv uuuuuuuuuuuu", "gopher_top_gram"),
        # Six words of a letter twice: again are 6 of 58 characters, not above 0.15.
        ("a b c d e f " + "x" * 34 + " a b c d e f", None),
        # Six of five letters: 30 / 134 above; the top 4-gram has 40.
        ("aaaaa bbbbb ccccc ddddd eeeee fffff " * 2 + "x" * 62, "gopher_top_gram"),
        # Ten of five letters: the top 4-gram has 40 of 319, again are 50 of 319, above 0.15.
        (f"{words(10)} {'x' * 200} {words(10)}", "gopher_duplicate_grams"),
        (f"{words(10)} {'x' * 400} {words(10)}", None),  # 50 of 519: not above 0.1 for ten words
    ],
)
def test_gopher_grams(text, expected):
    assert decide(GopherRepetition(), text) == expected


def test_table_a1_each_limit_alone():
    values = dict.fromkeys(GopherSignal.names, 0.0)
    limits = {
        **{"duplicate_lines": 0.30, "duplicate_line_characters": 0.20},
        **{"duplicate_paragraphs": 0.30, "duplicate_paragraph_characters": 0.20},
        **{"top_2_gram": 0.20, "top_3_gram": 0.18, "top_4_gram": 0.16},
        **{"duplicate_5_gram": 0.15, "duplicate_6_gram": 0.14, "duplicate_7_gram": 0.13},
        **{"duplicate_8_gram": 0.12, "duplicate_9_gram": 0.11, "duplicate_10_gram": 0.10},
    }
    reasons = set()
    for name, limit in limits.items():
        assert GopherRepetition()({**values, name: limit}) is None
        reasons.add(GopherRepetition()({**values, name: limit + 1e-9}))
    assert reasons == set(GopherRepetition.reasons)


def test_signals_have_the_names_that_they_say():
    for signal in (GopherSignal(), C4Signal(), LineSignal()):
        assert tuple(sorted(signal(document("a", "a b\n")))) == tuple(sorted(signal.names))
        assert not any(signal(document("a", "")).values())


SENTENCE = "This is a line of six words."


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"{SENTENCE}\nMenu\nHome | About us | And so on\n{SENTENCE}", f"{SENTENCE}\n{SENTENCE}"),
        ("One two three four!\nOne two three four five!", "One two three four five!"),
        ('She said to him: "go away"', 'She said to him: "go away"'),
        (f"Please enable Javascript to see this page.\n{SENTENCE}", SENTENCE),
        (f"Read our Privacy Policy before you go on.\n{SENTENCE}", SENTENCE),
        ("It was so [12] for long[citation needed].", "It was so  for long."),
        ("Menu\nHome", None),
    ],
)
def test_c4_lines(text, kept):
    result = C4Lines()(document("a.txt", text))
    assert (result.text == kept) if kept else (result == Drop("c4_no_line"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ".join([SENTENCE] * 3), None),
        (" ".join([SENTENCE] * 2), "c4_sentences"),
        ("Version 1.2.3 of e.g.this... He said: \"No!\" Why?", None),
        (f"{SENTENCE * 4} function() {{ }}", "c4_curly_bracket"),
        (f"{SENTENCE} {SENTENCE} {SENTENCE} Lorem ipsum dolor.", "c4_lorem_ipsum"),
    ],
)  # fmt: skip
def test_c4_page(text, expected):
    assert decide(C4Page(), text) == expected


def lines(punctuated: int, short: int, others: int, repeats: int = 0) -> str:
    """Different lines: with a full stop at the end, of 29 characters, of 40; one again."""
    texts = [f"{i:03} ends in a full stop as it should." for i in range(punctuated)]
    texts += [f"{i:029}" for i in range(short)] + [f"{i:040}" for i in range(others)]
    return "\n".join(texts + [f"{0:040}"] * repeats)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lines(12, 0, 88), "fineweb_punctuation"),  # 0.12 and less go
        (lines(13, 0, 87), None),
        (lines(33, 67, 0), "fineweb_short_lines"),  # 0.67 and more go
        (lines(34, 66, 0), None),
        (lines(4, 0, 6), None),
        (lines(4, 0, 6, 2), "fineweb_duplicate_lines"),  # 80 / 475 and 0.1 and more go
        (lines(10, 0, 10, 2), None),  # 80 / 871
    ],
)
def test_fineweb(text, expected):
    assert decide(FineWeb(), text) == expected


PROSE = "The committee met on Tuesday to talk about the new bridge over the river. " * 8


@pytest.mark.parametrize(
    ("line", "removed"),
    [
        ("Home", True),
        ("CONTACT US NOW", True),
        ("12 34", True),
        ("3 likes", True),
        ("1.2k views", True),
        ("Sign in to comment", True),
        ("Read more...", True),
        ("We use cookies to improve this", True),
        ("The NATO and the EU met today", False),
        ("He liked 3 likes of his", False),
        ("Sign in the name of " + "all of us who were there at that time.", False),
    ],
)
def test_boilerplate_lines(line, removed):
    result = Boilerplate(max_words=0.5)(document("a.txt", f"{PROSE}\n{line}\n{PROSE}"))
    assert isinstance(result, Document)
    assert (line not in result.text.split("\n")) == removed
    if removed:
        assert result.notes["counts"] == {"boilerplate_v1": {"lines": 1}}


def test_more_than_a_twentieth_of_boilerplate_drops_the_document():
    prose = " ".join(["word"] * 95)
    assert isinstance(
        Boilerplate()(document("a", f"{prose}\nRead more\nRead more\nHome")), Document
    )
    assert Boilerplate()(document("a", f"{prose}\n" + "Read more\n" * 3)) == Drop("boilerplate")


def pages(text: str, count: int, name: str = "https://a.org/{}") -> list[Document]:
    return [document(name.format(i), text.format(i)) for i in range(count)]


def test_lines_of_a_whole_site_go_and_page_numbers_are_no_difference():
    cleaned = compare(RepeatedLines(5), [
        *pages("Welcome to a.org\n\nText number x{0} of\nPage {0} of 7", 5),
        *pages("Welcome to a.org\nother", 4, "https://b.org/{}"),
    ])  # fmt: skip
    # Digits are taken as equal, so that these lines are one line of five documents.
    assert [one.text for one in cleaned[:5]] == [""] * 5
    assert all(one.text == "Welcome to a.org\nother" for one in cleaned[5:])


def test_rows_of_tables_do_not_look_alike():
    table = {"domain": "table"}
    rows = [replace(one, metadata=table) for one in pages("x,1{0}\ny,2{0}", 9, "t/{}.csv")]
    assert compare(RepeatedLines(3), rows) == rows
    prose = pages("x,1{}\nand more", 9, "t/{}.txt")
    assert all("x,1" not in one.text for one in compare(RepeatedLines(3), prose))


CODE = "int main() {\n  return 0;\n}\n" * 3


def test_code_and_tables_are_not_judged_as_prose():
    code, prose = document("a.c", CODE), document("a.txt", CODE)
    for step in (C4Lines(), Boilerplate()):
        assert step(code) is code
        assert isinstance(step(prose), Drop)
    for rule in (GopherQuality(), GopherRepetition(), C4Page(), FineWeb()):
        assert "code" in rule.skip and decide(rule, CODE) is not None
    assert "academic" in C4Page().skip


def test_every_reason_of_the_rules_is_reached():
    reached = {expected for _, expected in GOPHER}
    assert set(GopherQuality.reasons) == reached - {None}
    assert {GopherQuality.version, C4Page.version} <= set(registry.RULES)

"""Normalisation, languages and licences."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from megafm.data.document import Document, Drop
from megafm.data.steps.language import Language, LanguageRule, LanguageSignal
from megafm.data.steps.licence import Licence
from megafm.data.steps.normalise import Normalise
from tests.data.helpers import document

ENGLISH = "The committee met on Tuesday to talk about the new bridge over the river."
TEXTS = {
    "en": ENGLISH,
    "de": "Der Ausschuss traf sich am Dienstag, um über die neue Brücke zu sprechen.",
    "fr": "Le comité s'est réuni mardi pour parler du nouveau pont sur la rivière.",
    "es": "El comité se reunió el martes para hablar del nuevo puente sobre el río.",
    "ru": "Комитет собрался во вторник, чтобы обсудить новый мост через реку.",
    "zh": "委员会星期二开会讨论河上的新桥。",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text\n", "plain text\n"),
        ("sch\u00c3\u00b6n", "schön"),  # UTF-8 read as Latin-1
        ("a\r\nb\rc", "a\nb\nc"),
        ("e\u0301t\u00e9", "été"),
        ("a\x00b\x07c", "abc"),
        ("“curly”", "“curly”"),
        ("&amp; stays", "&amp; stays"),
    ],
)
def test_normalise(text, expected):
    result = Normalise()(document("a.txt", text))
    assert result.text == expected
    assert Normalise()(document("a.py", text)).text == text
    assert Normalise()(result).text == expected


def test_normalise_as_set():
    both = Normalise(unescape_html=True, straight_quotes=True)
    assert both(document("a.txt", "“a” &amp; b")).text == '"a" & b'


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ValueError, match=r"normalise_v1: needs ftfy; pip install 'megafm\[data\]'"):
        Normalise()(document("a.txt", "sch\u00c3\u00b6n"))


@pytest.mark.parametrize("language", TEXTS)
def test_language(language):
    result = Language()(document("a.txt", TEXTS[language] * 3))
    assert result.language == language and result.notes["language_score"] > 0.65
    values = LanguageSignal()(result)
    assert LanguageRule()(values) == (None if language == "en" else "other_language")
    assert LanguageRule(languages=(language,))(values) is None
    assert LanguageRule(languages=())(values) is None


def test_an_unsure_language_goes_by_its_score():
    unsure = document("a.txt", "")
    unsure = dataclasses.replace(unsure, language="en", notes={"language_score": 0.6})
    values = LanguageSignal()(unsure)
    assert LanguageRule()(values) == "unsure_language"
    assert LanguageRule(min_score=0.6)(values) is None
    assert Language()(document("a.py", ENGLISH)).language == ""


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", None),
        ("GPL-3.0-only", "licence"),
        ("GPL-3.0-only OR MIT", None),
        ("CC-BY-4.0", "licence"),
        ("unspecified", "no_licence"),
    ],
)
def test_licence(licence, expected):
    one = Document("id", "text", "files", "a", licence)
    result = Licence()(one)
    assert result == (Drop(expected) if expected else one)
    assert Licence(also=("CC-BY-4.0", "GPL-3.0-only"), unspecified=True)(one) is one

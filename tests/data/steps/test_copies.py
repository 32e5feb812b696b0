"""Repeated runs and near-duplicates: the copy of the smallest id stays, in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data.document import Document, Drop
from megafm.data.steps.copies import RepeatedRuns, SimHash
from megafm.data.steps.pipeline import compare
from tests.data.helpers import document

RUN = " ".join(f"run{i}" for i in range(50))


def texts(step: RepeatedRuns, *given: str) -> list[str]:
    """What is left of each, or the reason why nothing is."""
    left = compare(step, [document(f"{i}.txt", text) for i, text in enumerate(given)])
    return [one.reason if isinstance(one, Drop) else one.text for one in left]


def test_a_run_of_fifty_words_stays_once():
    one, two, short = f"first {RUN} end", f"second\n{RUN}\tlast of it", RUN.rpartition(" ")[0]
    assert texts(RepeatedRuns(), one, two, short, RUN) == [
        one,
        "second\nlast of it",
        short,
        "repeated",
    ]


def test_inside_a_document_too():
    text = f"a {RUN} b {RUN} c"
    (left,) = compare(RepeatedRuns(), [document("a.txt", text)])
    assert left.text == f"a {RUN} b c"
    assert left.notes["counts"] == {"repeated_runs_v1": {"units": 50}}


def test_characters():
    step = RepeatedRuns(min_length=5, unit="characters")
    assert texts(step, "caf\u00e9-\U0001f600!", "a caf\u00e9-\U0001f600? z") == [
        "caf\u00e9-\U0001f600!",
        "a ? z",
    ]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=5), st.integers(2, 4))
def test_windows_that_stood_before_are_found(given, width):
    """By the definition: every window of a document that an earlier place has too is cut."""
    seen, expected = set(), []
    for tokens in given:
        cut = [False] * len(tokens)
        for begin in range(len(tokens) - width + 1):
            window = tuple(tokens[begin : begin + width])
            if window in seen:
                cut[begin : begin + width] = [True] * width
            seen.add(window)
        kept = [token for token, gone in zip(tokens, cut, strict=True) if not gone]
        expected.append(kept if kept or not tokens else ["repeated"])
    found = texts(RepeatedRuns(min_length=width), *(" ".join(map(str, of)) for of in given))
    assert [text.split() for text in found] == [list(map(str, of)) for of in expected]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_documents_does_not_matter(given, rng):
    documents = [document(f"{i}.txt", text) for i, text in enumerate(given)]
    shuffled = rng.sample(documents, len(documents))
    for step in (RepeatedRuns(min_length=3), SimHash(max_bits=0, width=2)):
        expected = dict(zip((one.id for one in documents), compare(step, documents), strict=True))
        found = dict(zip((one.id for one in shuffled), compare(step, shuffled), strict=True))
        assert found == expected


def test_of_near_duplicates_the_smallest_id_stays():
    words = [f"word{i}" for i in range(400)]
    near = " ".join([*words[:-1], "other"])
    documents = [document("b", " ".join(words)), document("a", near), document("c", RUN)]
    dropped, *kept = compare(SimHash(max_bits=12, width=1), documents)
    assert dropped == Drop("near_duplicate") and dropped.where == "b"
    assert kept == documents[1:]
    assert compare(SimHash(max_bits=0, width=1), documents) == documents


def test_copies_are_found_among_many():
    rng = random.Random(0)
    documents = [
        document(f"{i:03}", " ".join(rng.choices(RUN.split(), k=60)) + f" {i}") for i in range(60)
    ]
    copies = [document(f"{i:03}x", documents[i].text) for i in range(0, 60, 3)]
    left = compare(SimHash(), [*documents, *copies])
    assert all(isinstance(one, Document) for one in left[:60])
    assert left[60:] == [Drop("near_duplicate")] * 20


@pytest.mark.parametrize("settings", [{"min_length": 1}, {"max_bits": 16}])
def test_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        (RepeatedRuns if "min_length" in settings else SimHash)(**settings)

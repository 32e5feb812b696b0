"""Repeated runs and near-duplicates: the copy of the smallest id stays, in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data.document import Document, Drop
from megafm.data.steps.copies import RepeatedRuns, SimHash
from tests.data.helpers import document

RUN = " ".join(f"run{i}" for i in range(50))


def texts(step: RepeatedRuns, *given: str) -> list[str]:
    """What is left of each, or the reason why nothing is."""
    left = step.clean([document(f"{i}.txt", text) for i, text in enumerate(given)])
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
    (left,) = RepeatedRuns().clean([document("a.txt", text)])
    assert left.text == f"a {RUN} b c"
    assert left.notes["counts"] == {"repeated_runs_v1": {"units": 50}}


def test_characters():
    step = RepeatedRuns(min_length=5, unit="characters")
    assert texts(step, "caf\u00e9-\U0001f600!", "a caf\u00e9-\U0001f600? z") == [
        "caf\u00e9-\U0001f600!",
        "a ? z",
    ]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_documents_does_not_matter(given, rng):
    documents = [document(f"{i}.txt", text) for i, text in enumerate(given)]
    shuffled = rng.sample(documents, len(documents))
    for step in (RepeatedRuns(min_length=3), SimHash(max_bits=0, width=2)):
        expected = dict(zip((one.id for one in documents), step.clean(documents), strict=True))
        found = dict(zip((one.id for one in shuffled), step.clean(shuffled), strict=True))
        assert found == expected


def test_of_near_duplicates_the_smallest_id_stays():
    words = [f"word{i}" for i in range(400)]
    near = " ".join([*words[:-1], "other"])
    documents = [document("b", " ".join(words)), document("a", near), document("c", RUN)]
    dropped, *kept = SimHash(max_bits=12, width=1).clean(documents)
    assert dropped == Drop("near_duplicate") and dropped.where == "b"
    assert kept == documents[1:]
    assert SimHash(max_bits=0, width=1).clean(documents) == documents


def test_copies_are_found_among_many():
    rng = random.Random(0)
    documents = [
        document(f"{i:03}", " ".join(rng.choices(RUN.split(), k=60)) + f" {i}") for i in range(60)
    ]
    copies = [document(f"{i:03}x", documents[i].text) for i in range(0, 60, 3)]
    left = SimHash().clean([*documents, *copies])
    assert all(isinstance(one, Document) for one in left[:60])
    assert left[60:] == [Drop("near_duplicate")] * 20


@pytest.mark.parametrize("settings", [{"min_length": 1}, {"max_bits": 16}])
def test_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        (RepeatedRuns if "min_length" in settings else SimHash)(**settings)

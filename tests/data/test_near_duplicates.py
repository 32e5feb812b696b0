from __future__ import annotations

import re

import numpy as np
import pytest

from megafm.data import near_duplicates as near
from tests.data.helpers import program


def exact_shingles(text: str) -> set[tuple[str, ...]]:
    """The definition, in plain Python: sets of five words in a row."""
    words = re.findall(r"[A-Za-z0-9_]+", text)
    return set(zip(*(words[i:] for i in range(5)), strict=False))


def jaccard(a: str, b: str) -> float:
    one, two = exact_shingles(a), exact_shingles(b)
    return len(one & two) / len(one | two)


def edited(text: str, every: int) -> str:
    words = re.split(r"(\W+)", text)
    words[::every] = ["edit"] * len(words[::every])
    return "".join(words)


TEXTS = [program(1, 60), *(edited(program(1, 60), n) for n in (12, 30, 80, 300)), program(2, 60)]


@pytest.mark.parametrize("text", [*TEXTS, "a b c d e", "a b c d e f", "_x1 __y.z(w) v"])
def test_shingles_are_the_sets_of_five_words(text: str) -> None:
    assert len(near.shingles(text.encode())) == len(exact_shingles(text))


@pytest.mark.parametrize("text", ["", "  ", "...", "one", "one two", "one two three four"])
def test_a_short_text_has_one_shingle(text: str) -> None:
    assert len(near.shingles(text.encode())) == 1


def test_what_stands_between_words_does_not_count() -> None:
    assert (near.shingles(b"a b c d e f") == near.shingles(b"a(b):\n\n  c.d,  e+f")).all()
    assert (near.shingles(b"a b c d e f") != near.shingles(b"a b c d f e")).all()


def test_signatures_estimate_the_jaccard_similarity() -> None:
    signature = near.signatures([near.shingles(text.encode()) for text in TEXTS])
    assert signature.shape == (len(TEXTS), near.NUM_MINIMA)
    for i, one in enumerate(TEXTS):
        for j, two in enumerate(TEXTS):
            estimate = (signature[i] == signature[j]).mean()
            assert abs(estimate - jaccard(one, two)) < 0.15  # over three standard errors


def test_pairs_over_the_threshold_are_found() -> None:
    similar = [
        (i, j) for i in range(6) for j in range(i + 1, 6) if jaccard(TEXTS[i], TEXTS[j]) > 0.6
    ]
    pairs = near.similar_pairs([near.shingles(text.encode()) for text in TEXTS], 0.6)
    assert similar
    assert set(pairs) == set(similar)
    for (i, j), similarity in pairs.items():
        assert similarity == pytest.approx(jaccard(TEXTS[i], TEXTS[j]))


def test_large_buckets_are_compared_with_their_first_rows() -> None:
    sets = [np.arange(10, dtype=np.uint64)] * (near.MAX_BUCKET + 40)
    pairs = near.similar_pairs(sets, 0.8)
    assert len(pairs) == 64 * 63 / 2 + 40 * 64
    assert near.removals(len(sets), pairs, 0.8) == set(range(1, len(sets)))
    assert set(near.clusters(len(sets), pairs)) == {0}


def test_a_removed_row_is_similar_to_a_kept_one_before_it() -> None:
    chain = {(0, 1): 0.9, (1, 2): 0.9, (2, 3): 0.7, (3, 4): 0.85}
    assert near.removals(6, chain, 0.8) == {1, 4}
    assert near.clusters(6, chain) == [0, 0, 0, 0, 0, 5]


def test_no_documents_no_pairs() -> None:
    assert near.similar_pairs([], 0.5) == {}

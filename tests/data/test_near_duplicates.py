from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

from megafm.data import near_duplicates as near
from megafm.data.config import NearDuplicates
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


def similar_pairs(texts: list[bytes], config: NearDuplicates) -> dict[tuple[int, int], float]:
    """What the stages do, in memory: pairs of equal bands that reach `cluster_at`."""
    keys = near.band_keys(near.signatures(texts, config), config)
    found = [near.candidates(keys[:, band]) for band in range(config.num_bands)]
    pairs = np.unique(np.concatenate(found), axis=0)
    similarity = near.jaccard(*near.shingles(texts, config), pairs)
    rows = zip(map(tuple, pairs.tolist()), similarity.tolist(), strict=True)
    return {pair: value for pair, value in rows if value >= config.cluster_at}


TEXTS = [program(1, 60), *(edited(program(1, 60), n) for n in (12, 30, 80, 300)), program(2, 60)]


CONFIG = NearDuplicates(remove_at=0.6, cluster_at=0.6)


def num_shingles(text: str) -> int:
    return len(near.shingles([text.encode()], CONFIG)[0])


@pytest.mark.parametrize("text", [*TEXTS, "a b c d e", "a b c d e f", "_x1 __y.z(w) v"])
def test_shingles_are_the_sets_of_five_words(text: str) -> None:
    assert num_shingles(text) == len(exact_shingles(text))


@pytest.mark.parametrize("text", ["", "  ", "...", "one", "one two", "one two three four"])
def test_a_short_text_has_one_shingle(text: str) -> None:
    assert num_shingles(text) == 1


def test_what_stands_between_words_does_not_count() -> None:
    texts = [b"a b c d e f", b"a(b):\n\n  c.d,  e+f", "«a» b — c“d”…e\u3000f".encode()]
    one, two, three = near.signatures(texts, CONFIG)
    assert (one == two).all() and (one == three).all()
    assert (one != near.signatures([b"a b c d f e"], CONFIG)[0]).all()


def test_case_counts_unless_it_is_folded() -> None:
    texts = [b"Some Words In A Row", b"some words in a row"]
    assert (np.diff(near.signatures(texts, CONFIG), axis=0) != 0).any()
    folded = dataclasses.replace(CONFIG, lowercase=True)
    assert (np.diff(near.signatures(texts, folded), axis=0) == 0).all()


def test_signatures_estimate_the_jaccard_similarity() -> None:
    signature = near.signatures([text.encode() for text in TEXTS], CONFIG)
    assert signature.shape == (len(TEXTS), 128)
    for i, one in enumerate(TEXTS):
        for j, two in enumerate(TEXTS):
            estimate = (signature[i] == signature[j]).mean()
            assert abs(estimate - jaccard(one, two)) < 0.15  # over three standard errors


def test_pairs_over_the_threshold_are_found() -> None:
    similar = [
        (i, j) for i in range(6) for j in range(i + 1, 6) if jaccard(TEXTS[i], TEXTS[j]) > 0.6
    ]
    pairs = similar_pairs([text.encode() for text in TEXTS], CONFIG)
    assert similar
    assert set(pairs) == set(similar)
    for (i, j), similarity in pairs.items():
        assert similarity == pytest.approx(jaccard(TEXTS[i], TEXTS[j]))


def planted(num_pairs: int, common: int, own: int) -> list[bytes]:
    """Pairs of texts of distinct words, each of which shares `common` words and has `own`."""
    words = (f"w{i}".encode() for i in itertools.count())
    texts = []
    for _ in range(num_pairs):
        shared = list(itertools.islice(words, common))
        texts += [b" ".join([*shared, *itertools.islice(words, own)]) for _ in range(2)]
    return texts


@pytest.mark.parametrize(("common", "own"), [(140, 30), (160, 20), (180, 10)])
def test_recall_is_that_of_the_banding_and_precision_exact(common: int, own: int) -> None:
    """14 bands of 8 rows, at similarities of 0.7, 0.8 and 0.9."""
    similarity = common / (common + 2 * own)
    with pytest.warns(match="num_bands=14, band_rows=8: of the pairs .*=0.6 similar 21% are"):
        config = NearDuplicates(0.6, 0.6, width=1, num_bands=14, band_rows=8)
    found = similar_pairs(planted(2000, common, own), config)
    assert set(found) <= {(2 * i, 2 * i + 1) for i in range(2000)}
    assert set(found.values()) == {similarity}
    assert abs(len(found) / 2000 - (1 - (1 - similarity**8) ** 14)) < 0.03
    stricter = dataclasses.replace(config, remove_at=0.95, cluster_at=0.95)
    assert similar_pairs(planted(200, common, own), stricter) == {}


def test_large_buckets_are_compared_with_their_first_rows() -> None:
    texts = [b"one and the same text for all"] * (near.MAX_BUCKET + 40)
    pairs = similar_pairs(texts, CONFIG)
    assert len(pairs) == 64 * 63 / 2 + 40 * 64
    edges = np.array(sorted(pairs, key=lambda pair: pair[::-1]))
    assert near.removals(len(texts), [edges]).nonzero()[0].tolist() == list(range(1, len(texts)))
    assert set(near.clusters(len(texts), [edges])) == {0}


def test_a_removed_row_is_similar_to_a_kept_one_before_it() -> None:
    chain = np.array([(0, 1), (1, 2), (3, 4)])
    for cut in range(4):
        removed = near.removals(6, [chain[:cut], chain[cut:]])
        assert removed.nonzero()[0].tolist() == [1, 4]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_clusters_are_those_of_all_batches_together(cut: int) -> None:
    chain = np.array([(3, 4), (1, 2), (2, 3)])
    assert near.clusters(6, [chain[:cut], chain[cut:]]).tolist() == [0, 1, 1, 1, 1, 5]


def test_no_documents_no_pairs() -> None:
    assert similar_pairs([], CONFIG) == {}

from __future__ import annotations

import random

import pytest

from megafm.data.config import Split
from megafm.data.split import validation_rows
from tests.data.helpers import document, program

DOCUMENTS = [document(f"{number:03}.py", program(number)) for number in range(300)]
ALONE = list(range(300))


def chosen(documents: list, cluster: list[int], config: Split) -> set[str]:
    return {documents[row].id for row in validation_rows(documents, cluster, config)}


def test_the_split_depends_on_contents_and_seed_alone() -> None:
    config = Split(validation_fraction=0.1)
    expected = chosen(DOCUMENTS, ALONE, config)
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    assert chosen(shuffled, ALONE, config) == expected
    assert chosen(DOCUMENTS, ALONE, Split(validation_fraction=0.1, seed=5)) != expected
    assert 10 < len(expected) < 50


def test_a_cluster_is_never_divided() -> None:
    cluster = [row - row % 3 for row in ALONE]
    rows = validation_rows(DOCUMENTS, cluster, Split(validation_fraction=0.2))
    assert rows
    assert all((row in rows) == (cluster[row] in rows) for row in ALONE)


def test_validation_stays_under_its_limit_of_bytes() -> None:
    limit = 5 * DOCUMENTS[0].num_bytes
    rows = validation_rows(DOCUMENTS, ALONE, Split(0.5, max_validation_bytes=limit))
    assert 0.5 * limit < sum(DOCUMENTS[row].num_bytes for row in rows) <= limit


def test_two_documents_are_enough() -> None:
    assert len(validation_rows(DOCUMENTS[:2], [0, 1], Split())) == 1


def test_one_cluster_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="split.validation_fraction=0.02.*one cluster"):
        validation_rows(DOCUMENTS[:3], [0, 0, 0], Split())
    assert validation_rows(DOCUMENTS[:3], [0, 0, 0], Split(validation_fraction=0)) == set()


@pytest.mark.parametrize("fraction", [-0.1, 0.6])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"split.validation_fraction={fraction}.*set"):
        Split(validation_fraction=fraction)

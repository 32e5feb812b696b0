from __future__ import annotations

import random

import numpy as np
import pytest

from megafm.data.config import Split
from megafm.data.document import Document
from megafm.data.split import Batch, validation_rows
from tests.data.helpers import document, program

DOCUMENTS = [document(f"{number:03}.py", program(number)) for number in range(300)]
ALONE = list(range(300))


def rows(
    documents: list[Document], cluster: list[int], config: Split, batch: int = 300
) -> set[int]:
    table = Batch(
        np.arange(len(documents)),
        np.array(cluster),
        np.array([document.num_bytes for document in documents]),
        np.array([int(document.sha256[:16], 16) for document in documents], np.uint64),
    )

    def batches() -> list[Batch]:
        columns = (table.rows, table.clusters, table.sizes, table.text_hashes)
        return [
            Batch(*(column[begin : begin + batch] for column in columns))
            for begin in range(0, len(documents), batch)
        ]

    return set(validation_rows(batches, config).tolist())


def chosen(documents: list[Document], cluster: list[int], config: Split, **how: int) -> set[str]:
    return {documents[row].id for row in rows(documents, cluster, config, **how)}


def test_the_split_depends_on_contents_and_seed_alone() -> None:
    config = Split(validation_fraction=0.1)
    expected = chosen(DOCUMENTS, ALONE, config)
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    assert chosen(shuffled, ALONE, config) == expected
    assert chosen(shuffled, ALONE, config, batch=7) == expected
    assert chosen(DOCUMENTS, ALONE, Split(validation_fraction=0.1, seed=5)) != expected
    assert 10 < len(expected) < 50


def test_a_cluster_is_never_divided() -> None:
    cluster = [row - row % 3 for row in ALONE]
    found = rows(DOCUMENTS, cluster, Split(validation_fraction=0.2))
    assert found
    assert all((row in found) == (cluster[row] in found) for row in ALONE)


def test_validation_stays_under_its_limit_of_bytes() -> None:
    limit = 5 * DOCUMENTS[0].num_bytes
    found = rows(DOCUMENTS, ALONE, Split(0.5, max_validation_bytes=limit))
    assert 0.5 * limit < sum(DOCUMENTS[row].num_bytes for row in found) <= limit


def test_two_documents_are_enough() -> None:
    assert len(rows(DOCUMENTS[:2], [0, 1], Split(), batch=1)) == 1


def test_one_cluster_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="split.validation_fraction=0.02.*one cluster"):
        rows(DOCUMENTS[:3], [0, 0, 0], Split())
    assert rows(DOCUMENTS[:3], [0, 0, 0], Split(validation_fraction=0)) == set()


@pytest.mark.parametrize("fraction", [-0.1, 0.6])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"split.validation_fraction={fraction}.*set"):
        Split(validation_fraction=fraction)

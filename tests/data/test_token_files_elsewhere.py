"""Files of tests/data/token_files, which the libraries themselves wrote: mosaicml-streaming 0.13.0
(MDSWriter, size_limit=1400) and datatrove 0.10.1 (TokenizedFile, save_final_metadata=True). They
hold the documents of `DOCUMENTS`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from megafm.data.token_formats import Headerless, open_tokens

FILES = Path(__file__).parent / "token_files"
LENGTHS = (4, 0, 299, 39, 6)  # then a 0
DOCUMENTS = [
    [(977 * number + 31 * place * place) % 60_000 + 1 for place in range(length)] + [0]
    for number, length in enumerate(LENGTHS)
]


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_the_reader_finds_what_the_library_wrote(name: str, tmp_path: Path) -> None:
    if name == "mds_zstd":
        pytest.importorskip("zstandard", reason="the extra data is not installed")
    folder = shutil.copytree(FILES / name, tmp_path / name)  # where shards may be unpacked
    tokens = open_tokens(folder / "train", Headerless(eod_id=0))
    edges = tokens.document_edges
    assert edges.tolist() == np.cumsum([0, *map(len, DOCUMENTS)]).tolist()
    data, places = tokens.gather(edges[:-1][::-1], np.diff(edges)[::-1])
    for ids, place in zip(DOCUMENTS[::-1], places.tolist(), strict=True):
        assert data[place : place + len(ids)].tolist() == ids


def test_all_five_are_there() -> None:
    kinds = ["datatrove_2_bytes", "datatrove_4_bytes", "mds_arrays", "mds_bytes", "mds_zstd"]
    assert sorted(path.name for path in FILES.iterdir()) == kinds

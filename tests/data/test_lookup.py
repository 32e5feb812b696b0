from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data import IndexedDataset, read_documents, tokenize
from megafm.data.lookup import lookup
from tests.data.helpers import data_folder, small_tokenizer

TOKENIZER = small_tokenizer()


def test_every_token_leads_to_its_document(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    tokenize(str(folder), TOKENIZER, say=lambda text: None)
    tokens = IndexedDataset(folder / "train")
    position = 0
    for number, document in enumerate(read_documents(folder, "train")):
        ids = tokens[number]
        for offset in (0, len(ids) // 2, len(ids) - 1):
            place = lookup(str(folder), "train", position + offset)
            assert place.document == document
            assert (place.offset, place.num_tokens) == (offset, len(ids))
        position += len(ids)
    assert position == tokens.num_tokens
    with pytest.raises(ValueError, match=f"={position}: train has {position} tokens; set"):
        lookup(str(folder), "train", position)
    with pytest.raises(ValueError, match="data.token=-1"):
        lookup(str(folder), "train", -1)

from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.manifest import Manifest, manifest_path
from tests.data.helpers import data_folder


def test_tokens_come_and_go(tmp_path: Path) -> None:
    manifest = Manifest.load(data_folder(tmp_path))
    tokenized = manifest.with_tokens({"train": 5, "validation": 2}, "hash", {"train.bin": "0"})
    assert tokenized.tokens == {"train": 5, "validation": 2}
    assert tokenized.splits["train"].tokens == 5
    assert tokenized.without_tokens() == manifest


def test_a_missing_or_broken_manifest_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.dir=.*no manifest.json.*run: megafm data"):
        Manifest.load(tmp_path)
    for text in ("{", "[]", '{"corpus": "x"}'):
        manifest_path(tmp_path).write_text(text)
        with pytest.raises(ValueError, match="manifest.json: not a manifest.*run: megafm data"):
            Manifest.load(tmp_path)

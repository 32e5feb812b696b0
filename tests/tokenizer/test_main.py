from __future__ import annotations

from pathlib import Path

import pytest

from megafm.config import compose
from megafm.data.manifest import Manifest
from megafm.tokenizer import Tokenizer
from megafm.tokenizer.__main__ import TokenizerJob, sample, train_tokenizer
from tests.data.helpers import data_folder


def test_the_job_trains_saves_and_reports_bytes_per_token(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    overrides = [f"data.dir={folder}", f"tokenizer.dir={tmp_path}/tok", "tokenizer.vocab_size=380"]
    said: list[str] = []
    tokenizer = train_tokenizer(compose("tokenizer", TokenizerJob, overrides), said.append)
    assert Tokenizer.load(tmp_path / "tok").hash == tokenizer.hash
    assert tokenizer.vocab_size == 380
    packed = float(said[0].split(" bytes/token")[0].split()[-1])
    assert 1.5 < packed < 6


def test_the_cap_takes_an_even_sample_of_whole_documents(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    total = Manifest.load(folder).splits["train"].bytes
    everything = list(sample(str(folder), total, total))
    assert sum(len(text.encode()) for text in everything) == total
    some = list(sample(str(folder), total, total // 2))
    assert set(some) < set(everything)
    assert 0.25 * total < sum(len(text.encode()) for text in some) < 0.75 * total


def test_without_documents_the_remedy_is_named(tmp_path: Path) -> None:
    job = compose("tokenizer", TokenizerJob, [f"data.dir={tmp_path}"])
    with pytest.raises(ValueError, match="no manifest.json there; run: megafm data"):
        train_tokenizer(job)

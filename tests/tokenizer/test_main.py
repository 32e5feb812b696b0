from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from megafm.config import compose
from megafm.data.document import write_documents
from megafm.data.manifest import Manifest
from megafm.data.text_sample import language_shares, sample
from megafm.tokenizer import Tokenizer
from megafm.tokenizer.__main__ import (
    compare,
    import_other,
    inspect,
    study_sizes,
    train_tokenizer,
)
from megafm.tokenizer.config import TokenizerJob
from tests.data.helpers import data_folder, document


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
    with pytest.raises(ValueError, match="no manifest.json there; run: megafm data"):
        train_tokenizer(job(tmp_path))


def job(folder: Path, *overrides: str) -> TokenizerJob:
    tok = f"tokenizer.dir={folder.parent}/tok"
    return compose("tokenizer", TokenizerJob, [f"data.dir={folder}", tok, *overrides])


def test_the_study_writes_a_table_a_picture_and_the_cheapest_size(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    study_sizes(job(folder, "action=study", "tokenizer.sizes=[260,300,380]", "dim=64"))
    study = json.loads((tmp_path / "tok" / "study.json").read_text())
    rows = study["rows"]
    assert [one["vocab_size"] for one in rows] == [260, 300, 380]
    assert sorted(one["tokens"] for one in rows) == [one["tokens"] for one in rows[::-1]]
    last = rows[-1]
    assert last["embedding_parameters"] == 380 * 64
    assert last["output_flops_per_token"] == 6 * 380 * 64
    body = 12 * 12 * 64**2
    assert last["flops_per_byte"] == 6 * (body + 380 * 64) / last["bytes_per_token"]
    assert study["fewest_flops_per_byte"] == 380
    assert (tmp_path / "tok" / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_inflation_compares_terms_with_other_tokenizers(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    (tmp_path / "terms").write_text("Poincar\u00e9\n\nparse_3\n")
    terms = f"terms={tmp_path}/terms"
    train_tokenizer(job(folder, "tokenizer.vocab_size=300"), lambda text: None)
    whole = [f"tokenizer.whole_file={tmp_path}/terms", "tokenizer.vocab_size=300"]
    other = f"tokenizer.dir={tmp_path}/other"
    train_tokenizer(job(folder, *whole, other), lambda text: None)
    compare(job(folder, "action=inflation", terms, f"tokenizer.others=[{tmp_path}/other]"))
    ours, theirs = json.loads((tmp_path / "tok" / "inflation.json").read_text())
    assert (theirs["tokens_per_term"], theirs["whole"]) == (1.0, 1.0)
    assert ours["relative"] == 1.0 and theirs["relative"] == 1 / ours["tokens_per_term"]
    assert ours["worst"]["Poincar\u00e9"] == len(
        Tokenizer.load(tmp_path / "tok").encode(" Poincar\u00e9")
    )
    assert (tmp_path / "tok" / "inflation.png").exists()
    with pytest.raises(ValueError, match="terms=: set a file of domain terms"):
        compare(job(folder, "action=inflation"))


def test_import_and_inspect(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    train_tokenizer(job(folder, "tokenizer.vocab_size=300"), lambda text: None)
    said: list[str] = []
    overrides = [f"tokenizer.source={tmp_path}/tok", f"tokenizer.dir={tmp_path}/new"]
    import_other(job(folder, *overrides, "tokenizer.chat_template=chatml"), said.append)
    assert "300 tokens" in said[0] and "set model.vocab_size=300 or more" in said[0]
    inspect(job(folder, f"tokenizer.dir={tmp_path}/new"), said.append)
    assert "chat template: yes" in said and "text decodes to itself: yes" in said
    assert Tokenizer.load(tmp_path / "new").hash != Tokenizer.load(tmp_path / "tok").hash


def test_an_import_that_loses_text_says_so(tmp_path: Path) -> None:
    """White space, here, as word pieces of BERT's sort do."""
    vocab = {token: number for number, token in enumerate(["<|endoftext|>", "[UNK]", "a", "##a"])}
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "bert").mkdir()
    inner.save(str(tmp_path / "bert" / "tokenizer.json"))
    said: list[str] = []
    overrides = [f"tokenizer.source={tmp_path}/bert", f"tokenizer.dir={tmp_path}/new"]
    import_other(job(data_folder(tmp_path), *overrides), said.append)
    assert said[1] == f"{tmp_path}/bert: text does not decode to itself; not for pretraining"
    assert Tokenizer.load(tmp_path / "new").token_bytes().tolist() == [0, 5, 1, 1]


def test_languages_share_by_temperature_and_what_one_lacks_goes_to_the_others() -> None:
    counts = {"en": 1_000_000, "de": 10_000, "": 100}
    even = language_shares(counts, 30_000, 1e9)
    taken = {name: share * counts[name] for name, share in even.items()}
    assert taken[""] == 100 and taken["de"] == 10_000
    assert taken["en"] == pytest.approx(30_000 - 10_100)
    as_they_are = language_shares(counts, 10_101, 1.0)
    assert as_they_are["en"] == pytest.approx(as_they_are["de"])
    root = language_shares(counts, 1000, 2.0)
    assert root["en"] * counts["en"] == pytest.approx(10 * root["de"] * counts["de"])
    assert language_shares(counts, 10**9, 3.0) == {"en": 1.0, "de": 1.0, "": 1.0}


def test_a_small_language_has_more_of_a_say_at_a_higher_temperature(tmp_path: Path) -> None:
    texts = [("en", 90)] + [("de", 10)]
    documents = [
        dataclasses.replace(document(f"{name}{n}", f"{name} " * 100), language=name)
        for name, count in texts
        for n in range(count)
    ]
    write_documents(tmp_path, "train", documents)
    total = sum(one.num_bytes for one in documents)
    counts = Counter(text[:2] for text in sample(str(tmp_path), total, total // 4, 1e9))
    assert counts["de"] == 10 and 5 < counts["en"] < 30

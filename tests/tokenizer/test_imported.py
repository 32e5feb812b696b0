"""Tokenizers of other libraries give the ids of those libraries."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from megafm.tokenizer import Recipe, Tokenizer, train
from megafm.tokenizer.imported import (
    byte_letters,
    from_ranks,
    import_tokenizer,
    oniguruma,
    read_ranks,
)
from megafm.tokenizer.tokenizer import PROBE
from megafm.tokenizer.words import PATTERNS
from tests.tokenizer.corpus import sentences

# As newer releases of tiktoken write cl100k_base: possessive, with $ for the end of the text.
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
CORPUS = [
    *sentences(60, seed=4),
    *("", "   ", " a", "$a$\n\n$  \n\t x \n", "1234567 12", "I'LL don't", "<|endoftext|>", "é"),
    PROBE.replace("\x00", ""),
]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    rustbpe = pytest.importorskip("rustbpe", reason="the extra tokenizers is not installed")
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(sentences()), 700, pattern=POSSESSIVE)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


@pytest.mark.parametrize("pattern", [*PATTERNS, POSSESSIVE])
def test_ranks_give_the_ids_of_tiktoken(
    ranks: dict[bytes, int], pattern: str, tmp_path: Path
) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]
    (tmp_path / "x.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    assert read_ranks(tmp_path / "x.tiktoken") == ranks
    ours = import_tokenizer(tmp_path / "x.tiktoken", pattern)
    theirs = tiktoken.Encoding(
        "x",
        pat_str=PATTERNS.get(pattern, pattern),
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 700},
    )
    assert ours.encode_batch(CORPUS) == [theirs.encode_ordinary(text) for text in CORPUS]
    assert ours.eod_id == theirs.eot_token
    assert ours.vocab_size == theirs.n_vocab
    assert [ours.decode(ours.encode(text)) for text in CORPUS] == CORPUS


def test_special_tokens_keep_their_ids_over_gaps(ranks: dict[bytes, int]) -> None:
    special = {"<|endoftext|>": 700, "<|endofprompt|>": 710}
    ours = from_ranks(ranks, PATTERNS["gpt2"], special)
    assert ours.vocab_size == 711
    assert ours.decode([710]) == "<|endofprompt|>"


def test_patterns_are_translated_for_oniguruma() -> None:
    assert oniguruma(r"\p{N}{1,3}+|\s++$|[$]\$") == r"(?>\p{N}{1,3})|\s++\z|[$]\$"


def test_letters_of_bytes_are_those_of_the_library() -> None:
    assert set(byte_letters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    ours = [byte_letters()[byte] for byte in "é\n ".encode()]
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert "".join(ours) == cut.pre_tokenize_str("é\n ")[0][0]


def test_damaged_ranks_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_bytes(b"IQ== 0\n??? 1\n")
    with pytest.raises(ValueError, match="x.tiktoken, line 2: not a token and its rank"):
        import_tokenizer(tmp_path / "x.tiktoken")
    (tmp_path / "x.tiktoken").write_bytes(b"IQ== 0\n")
    with pytest.raises(ValueError, match="no token of the byte 0; every byte must have one"):
        import_tokenizer(tmp_path / "x.tiktoken")
    with pytest.raises(ValueError, match="tokenizer.source=nowhere: set a folder"):
        import_tokenizer("nowhere")


AS_IS: dict[str, Any] = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        AS_IS | {"split_digits": True, "user_defined_symbols": ["der", "<|x|>"]},
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    ],
    ids=["default", "as it is", "no prefix"],
)
def test_a_sentencepiece_model_gives_its_ids(
    tmp_path: Path, model_type: str, byte_fallback: bool, settings: dict[str, Any]
) -> None:
    library = pytest.importorskip("sentencepiece", reason="the extra tokenizers is not installed")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        model_type=model_type,
        byte_fallback=byte_fallback,
        character_coverage=0.999,
        minloglevel=2,
        **settings,
    )
    path = tmp_path / "x.model"
    path.write_bytes(model.getvalue())
    ours = import_tokenizer(path)
    theirs = library.SentencePieceProcessor(model_file=str(path))
    assert ours.vocab_size == theirs.vocab_size()
    assert ours.eod_id == theirs.eos_id()
    texts = [*CORPUS, "<s> </s> <0x41> \u2581 <|x|>der", "der der", "x" * 50]
    for text in texts:
        mine, wanted = ours.encode(text), theirs.encode(text)
        if model_type == "unigram":  # of paths of equal score each library takes its own
            assert sorted(mine) == sorted(wanted), text
            assert ours.decode(mine) == ours.decode(wanted)
        else:
            assert mine == wanted, text
    assert sum(ours.encode(text) == theirs.encode(text) for text in texts) >= len(texts) - 2
    assert ours.lossless == ("normalization_rule_name" in settings and byte_fallback)


def test_a_folder_of_another_library_closes_documents_with_its_own_token(tmp_path: Path) -> None:
    import transformers

    inner = tokenizers.Tokenizer.from_str(train(iter(sentences(100)), 300).definition)
    text = inner.to_str().replace("<|endoftext|>", "</s>")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(text), eos_token="</s>", bos_token="</s>"
    )
    theirs.save_pretrained(tmp_path)
    ours = import_tokenizer(tmp_path)
    assert ours.eod_id == theirs.eos_token_id == 0
    assert [ours.encode(text) for text in CORPUS] == [theirs.encode(text) for text in CORPUS]
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").hash == ours.hash
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="names no eos_token of it"):
        Tokenizer.load(tmp_path)


def test_byte_level_folders_of_ours_are_read_as_they_are(tmp_path: Path) -> None:
    ours = train(iter(sentences(100)), 320, Recipe(kind="sentencepiece_bpe"))
    ours.save(tmp_path)
    assert import_tokenizer(tmp_path).hash == ours.hash

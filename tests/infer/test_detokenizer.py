from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megafm.infer.detokenizer import REPLACEMENT, StreamingDetokenizer


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["def f(x):\n    return '\u00e9\u20ac'"] * 9, trainer)
    return tokenizer


TOKENIZER = byte_level_tokenizer()


def stream(tokens: list[int]) -> list[str]:
    detokenizer = StreamingDetokenizer(TOKENIZER.decode)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@given(st.text())
def test_the_pieces_add_up_to_the_text(text: str) -> None:
    assert "".join(stream(TOKENIZER.encode(text).ids)) == text


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1)))
def test_the_pieces_of_any_tokens_add_up_to_their_decoding(tokens: list[int]) -> None:
    assert "".join(stream(tokens)) == TOKENIZER.decode(tokens)


@pytest.mark.parametrize("text", ["\u00e9", "\u20ac uro", "\U0001f600!", "\ufffd kept"])
def test_no_piece_shows_half_a_character(text: str) -> None:
    pieces = stream(TOKENIZER.encode(text).ids)
    assert all(piece in text for piece in pieces)


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    half = TOKENIZER.encode("a\U0001f600").ids[:-1]
    assert stream(half)[-1] == REPLACEMENT

"""gigatoken gives the ids of tokenizers, or is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from megafm.tokenizer import Recipe, Tokenizer, giga, train
from megafm.tokenizer.giga import Gigatoken
from megafm.tokenizer.words import PATTERNS
from tests.tokenizer.corpus import sentences

gigatoken = pytest.importorskip("gigatoken", reason="the extra tokenizers is not installed")
TEXTS = sentences()
RECIPE = Recipe(special_tokens=("<|tool|>",), reserved=2)
CUTS = sorted(PATTERNS)


def trained(cut: Any) -> Tokenizer:
    return train(iter(TEXTS), 600, dataclasses.replace(RECIPE, cut=cut))


@pytest.fixture(scope="module")
def by_cut() -> dict[str, tuple[Tokenizer, Gigatoken]]:
    return {cut: (one := trained(cut), Gigatoken(one)) for cut in CUTS}


text = st.text(st.characters(exclude_categories=["Cs"]))
piece = st.sampled_from(["<|endoftext|>", "<|tool|>", "\r\n", "  \t\n x", "12345", "I'LL 's", ""])


@pytest.mark.parametrize("cut", CUTS)
def test_any_text_has_the_ids_of_tokenizers(
    by_cut: dict[str, tuple[Tokenizer, Gigatoken]], cut: str
) -> None:
    tokenizer, fast = by_cut[cut]

    @given(text, piece, text)
    def same(before: str, between: str, after: str) -> None:
        one = before + between + after
        assert fast._fast.encode_batch_list([one]) == [tokenizer.encode(one)]
        assert tokenizer.decode(fast.encode_batch([one])[0]) == one

    same()
    assert fast.encode_batch([]) == []
    assert fast.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_special_tokens_that_become_ids_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gigatoken makes them of a tokenizer that is whole."""

    def whole(tokenizer: Tokenizer) -> Any:
        return gigatoken.Tokenizer.from_json(tokenizer.definition)

    monkeypatch.setattr(giga, "_load", whole)
    message = "'<|endoftext|>' becomes other ids than by tokenizers; set tokenizer.encoder=token"
    with pytest.raises(ValueError, match=re.escape(message)):
        Gigatoken(trained("gpt2"))


def test_texts_are_held_to_tokenizers_while_they_are_encoded(
    by_cut: dict[str, tuple[Tokenizer, Gigatoken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = copy.copy(by_cut["gpt2"][1])
    fast._fast = giga._load(train(iter(TEXTS[:150]), 500, Recipe(cut="gpt2")))
    monkeypatch.setattr(giga, "CHECKED_EVERY", 10)
    with pytest.raises(ValueError, match="tokenizer.encoder=gigatoken: .* becomes other ids"):
        fast.encode_batch(["", *TEXTS[:20]])


def test_its_memory_of_words_is_dropped_now_and_then(
    by_cut: dict[str, tuple[Tokenizer, Gigatoken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giga, "CACHE_BYTES", 2000)
    tokenizer, fast = by_cut["gpt2"][0], copy.copy(by_cut["gpt2"][1])
    fast._room, seen = 0, set()
    for text in TEXTS:
        assert fast.encode_batch([text]) == [tokenizer.encode(text)]
        seen.add(id(fast._fast))
    assert len(seen) > 1


@pytest.mark.parametrize("kind", ["bpe", "unigram", "sentencepiece_bpe", "wordpiece"])
def test_tokenizers_that_it_does_not_know_are_refused(kind: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"tokenizer.encoder=gigatoken: it does not know this tokenizer \(Un.*\); set "
        "tokenizer.encoder=tokenizers, or train one with tokenizer.cut=cl100k_base",
    ):
        Gigatoken(train(iter(TEXTS), 600, Recipe(kind=kind)))


def test_a_truncating_tokenizer_is_refused() -> None:
    parts = json.loads(trained("gpt2").definition)
    limit = {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    parts["truncation"] = limit
    inner = tokenizers.Tokenizer.from_str(json.dumps(parts))
    with pytest.raises(ValueError, match="becomes other ids"):
        Gigatoken(Tokenizer(inner))

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from megafm.evaluate import ngram
from megafm.evaluate.ngram import BEGIN, SYMBOL_BITS, ByteNgram, count_ngrams, discounts, pack

rng = random.Random(0)
WORDS = [b"def ", b"return ", b"self.", b"\n    ", b"import ", b"x", b"= ", b"\xc3\xa9", b"\x00"]
TRAIN = [b"".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(40)]
VALID = [b"".join(rng.choices([*WORDS, b"unseen\xff"], k=20)) for _ in range(5)]


class BruteForce:
    """Equation 26 of Chen and Goodman, one dictionary an order, nothing packed or sorted."""

    def __init__(self, documents: list[bytes], order: int) -> None:
        self.order = order
        top: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            symbols = [BEGIN] * (order - 1) + list(document)
            for end in range(order, len(symbols) + 1):
                top[tuple(symbols[end - order : end])] += 1
        self.counts = {order: top}
        for length in range(order - 1, 0, -1):
            shorter = Counter(gram[1:] for gram in self.counts[length + 1])
            self.counts[length] = shorter

    def probability(self, context: tuple[int, ...], byte: int) -> float:
        if len(context) + 1 > self.order:
            raise AssertionError
        lower = 1 / 256 if not context else self.probability(context[1:], byte)
        counts = self.counts[len(context) + 1]
        follow = {w: counts[(*context, w)] for w in range(256) if (*context, w) in counts}
        if not follow:
            return lower
        discount = discounts(np.array(list(counts.values())))
        own = follow.get(byte, 0)
        reserved = sum(discount[min(count, 3)] for count in follow.values())
        return (own - discount[min(own, 3)] + reserved * lower) / sum(follow.values())

    def bits(self, document: bytes) -> float:
        symbols = [BEGIN] * (self.order - 1) + list(document)
        return -sum(
            math.log2(self.probability(tuple(symbols[i - self.order + 1 : i]), symbols[i]))
            for i in range(self.order - 1, len(symbols))
        )


def packed_row(context: bytes) -> np.ndarray:
    """The 256 n-grams that may follow `context`."""
    head = 0
    for byte in context:
        head = head << SYMBOL_BITS | byte
    return np.array([head << SYMBOL_BITS | byte for byte in range(256)], dtype=np.uint64)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 7])
def test_code_length_equals_a_brute_force_reference(order: int) -> None:
    reference = BruteForce(TRAIN, order)
    expected = sum(reference.bits(document) for document in VALID)
    assert ByteNgram.train(TRAIN, order).bits(VALID) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("context", [b"def ", b"xx= ", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"])
def test_probabilities_of_the_next_byte_sum_to_one(context: bytes) -> None:
    assert ByteNgram.train(TRAIN).probabilities(packed_row(context)).sum() == pytest.approx(1)


def test_discounts_follow_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [100, 40, 20, 10, 3])
    y = 100 / (100 + 80)
    expected = [0, 1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 10 / 20]
    assert discounts(counts) == pytest.approx(expected)


def test_discounts_leave_mass_where_counts_of_counts_are_missing() -> None:
    assert (discounts(np.array([5, 7])) == [0, 0.5, 1, 1.5]).all()


def test_no_ngram_reaches_across_documents() -> None:
    keys, counts = count_ngrams([b"ab", b"cd"], 2)
    expected = {(BEGIN, 97), (97, 98), (BEGIN, 99), (99, 100)}
    assert {(int(key) >> 9, int(key) & 511) for key in keys} == expected
    assert counts.tolist() == [1, 1, 1, 1]


def test_zero_bytes_and_empty_documents_are_text_like_any_other() -> None:
    assert (pack([b"", b"\x00", b""], 3) == [BEGIN << 18 | BEGIN << 9]).all()
    keys, _ = count_ngrams([b""], 5)
    assert len(keys) == 0


def test_counting_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_ngrams(TRAIN, 5)
    monkeypatch.setattr(ngram, "CHUNK_BYTES", 50)
    chunked = count_ngrams(TRAIN, 5)
    assert (whole[0] == chunked[0]).all() and (whole[1] == chunked[1]).all()
    brute: dict[int, int] = defaultdict(int)
    for key in pack(TRAIN, 5).tolist():
        brute[key] += 1
    assert dict(zip(whole[0].tolist(), whole[1].tolist(), strict=True)) == brute


def test_a_predictable_text_costs_next_to_nothing() -> None:
    text = b"abcdefgh" * 500
    assert ByteNgram.train([text] * 20).bits([text]) / len(text) < 0.01


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="training split has no text"):
        ByteNgram.train([])


def test_an_order_that_does_not_fit_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="ngram_order=8"):
        ByteNgram.train(TRAIN, order=8)

"""megafm._index against its definition in Python, and that against other libraries."""

from __future__ import annotations

import importlib
from itertools import pairwise

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import index, index_reference
from megafm.data.near_duplicates import permutations

needs_index = pytest.mark.skipif(index.missing() is not None, reason=f"{index.missing()}")
quick = settings(deadline=None, max_examples=60)


def native():
    return importlib.import_module("megafm._index")


# Bytes that matter to the scan, whole characters, and anything at all.
PIECES = [*"aB_7 .é“…🙂", "\n\t", "\u3000", "中文", "longer_word"]
PARTS_OF_CHARACTERS = [0xC2, 0xA0, 0xE2, 0x80, 0xE3, 0x41, 0xF0]
TEXTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=40).map(lambda parts: "".join(parts).encode()),
        st.binary(max_size=40),
        st.lists(st.sampled_from(PARTS_OF_CHARACTERS), max_size=20).map(bytes),
    ),
    max_size=6,
)
UNITS = st.sampled_from(["words", "characters"])


def sets_of(draw_hashes: list[list[int]], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, draw_hashes)], dtype=np.int64)
    return np.array([h for one in draw_hashes for h in one], dtype), offsets


@needs_index
@quick
@given(TEXTS, UNITS, st.integers(1, 6), st.booleans(), st.integers(1, 3))
def test_shingles_and_minhash(texts, unit, width, lowercase, threads):
    rule = unit, width, lowercase
    hashes, offsets = native().shingles(texts, *rule, threads)
    expected = index_reference.shingles(texts, *rule, 1)
    assert hashes.dtype == np.uint64 and offsets.dtype == np.int64
    assert np.array_equal(hashes, expected[0]) and np.array_equal(offsets, expected[1])
    a, b = permutations(20)
    found = native().minhash(texts, a, b, *rule, threads)
    assert found.dtype == np.uint32 and found.shape == (len(texts), 20)
    assert np.array_equal(found, index_reference.minhash(texts, a, b, *rule, 1))


@pytest.mark.parametrize(
    ("unit", "one", "two", "same"),
    [
        ("words", "a b c", "  a, b: (c)\n", True),
        ("words", "a b c", "a b  c “…”", True),
        ("words", "a b c", "a bc", False),
        ("words", "cafe", "café", False),
        ("words", "a" * 8 + "b", "a" * 8 + " b", False),
        ("characters", "ab cd", " ab \n\t cd ", True),
        ("characters", "ab cd", "abcd", False),
        ("characters", "é中", "中é", False),
    ],
)
def test_what_a_shingle_sees(unit, one, two, same):
    sets = [index.native().shingles([t.encode()], unit, 3, True, 1)[0] for t in (one, two)]
    assert np.array_equal(*sets) == same


@pytest.mark.parametrize("name", ["megafm._index", "megafm.data.index_reference"])
def test_signatures_are_those_of_datasketch(name):
    if name == "megafm._index" and index.missing():
        pytest.skip(f"{index.missing()}: make setup")
    module = importlib.import_module(name)
    generator = np.random.default_rng(0)
    sets = [generator.integers(0, 2**32, size, np.uint64) for size in (1, 2, 17, 400, 0)]
    hashes, offsets = sets_of([one.tolist() for one in sets], np.uint32)
    peers = [datasketch.MinHash(num_perm=112, hashfunc=lambda h: h) for _ in sets]
    for peer, one in zip(peers, sets, strict=True):
        peer.update_batch(one.tolist())
    a, b = peers[0].permutations
    found = module.signatures(hashes, offsets, a, b, 2)
    assert np.array_equal(found, [peer.digest() for peer in peers])


@needs_index
@quick
@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.data())
def test_candidates(rows, num_bands, band_rows, max_bucket, data):
    width = num_bands * band_rows
    values = data.draw(st.lists(st.integers(0, 1), min_size=rows * width, max_size=rows * width))
    signatures = np.array(values, np.uint32).reshape(rows, width)
    found = native().candidates(signatures, num_bands, max_bucket, 2)
    expected = index_reference.candidates(signatures, num_bands, max_bucket, 1)
    assert found.dtype == np.int64 and found.shape == expected.shape
    assert np.array_equal(found, expected)


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12).map(
    lambda pairs: np.array(pairs, np.int64).reshape(-1, 2)
)


@needs_index
@quick
@given(TEXTS, UNITS, st.integers(1, 3), st.booleans(), st.integers(1, 3))
def test_simhash(texts, unit, width, lowercase, threads):
    found = native().simhash(texts, unit, width, lowercase, threads)
    assert found.dtype == np.uint64
    assert np.array_equal(found, index_reference.simhash(texts, unit, width, lowercase, 1))


def test_a_small_edit_moves_few_bits_of_a_fingerprint():
    words = [f"word{i}" for i in range(400)]
    edited, other = [*words[:-2], "new", "end"], [f"other{i}" for i in range(400)]
    texts = [" ".join(text).encode() for text in (words, edited, other)]
    one, two, three = index.native().simhash(texts, "words", 1, False, 1).tolist()
    assert (one ^ two).bit_count() <= 6 < 16 < (one ^ three).bit_count()


@needs_index
@quick
@given(
    st.lists(st.lists(st.integers(0, 63), max_size=4), max_size=12),
    st.integers(0, 6),
    st.integers(1, 12),
)
def test_near_fingerprints(flips, most, max_bucket):
    base = 0x0123456789ABCDEF
    values = [base ^ sum({1 << bit for bit in bits}) for bits in flips]
    fingerprints = np.array(values, np.uint64)
    found = native().near_fingerprints(fingerprints, most, max_bucket)
    expected = index_reference.near_fingerprints(fingerprints, most, max_bucket)
    assert found.dtype == np.int64 and np.array_equal(found, expected)
    every = [(i, j) for j in range(len(values)) for i in range(j)]
    near = sorted((i, j) for i, j in every if (values[i] ^ values[j]).bit_count() <= most)
    if max_bucket >= len(values):
        assert found.tolist() == [list(pair) for pair in near]


@needs_index
@quick
@given(st.lists(st.sets(st.integers(0, 20), max_size=12), min_size=8, max_size=8), PAIRS)
def test_overlaps(sets, pairs):
    hashes, offsets = sets_of([sorted(one) for one in sets], np.uint64)
    expected = [len(sets[i] & sets[j]) for i, j in pairs.tolist()]
    for module in (native(), index_reference):
        assert module.overlaps(hashes, offsets, pairs, 2).tolist() == expected


@needs_index
@quick
@given(PAIRS)
def test_unite(pairs):
    linked = np.eye(8, dtype=bool)
    linked[pairs[:, 0], pairs[:, 1]] = linked[pairs[:, 1], pairs[:, 0]] = True
    for _ in range(3):
        linked = linked @ linked
    for module in (native(), index_reference):
        parent = np.arange(8)
        module.unite(parent, pairs[:3])  # goes on from what an earlier call has left
        module.unite(parent, pairs[3:])
        while (parent != parent[parent]).any():
            parent = parent[parent]
        assert parent.tolist() == linked.argmax(axis=1).tolist()


@needs_index
@quick
@given(PAIRS)
def test_remove_similar(pairs):
    expected: set[int] = set()
    for i, j in pairs.tolist():
        expected |= {j} if i not in expected else set()
    for module in (native(), index_reference):
        removed = np.zeros(8, bool)
        module.remove_similar(removed, pairs)
        assert set(removed.nonzero()[0].tolist()) == expected


@needs_index
@quick
@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "bb", "é", " ", "\n", "\n\n", "\t", "\x00"]), max_size=60
        ).map(lambda parts: "".join(parts).encode()),
        max_size=3,
    ),
    st.integers(1, 2),
)
def test_repetition(texts, threads):
    found = native().repetition(texts, threads)
    assert found.dtype == np.int64
    assert np.array_equal(found, index_reference.repetition(texts, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("ab\ncd\nab\n\nef", {"lines": 4, "duplicate_lines": 1, "duplicate_line_characters": 2}),
        ("x\ny\n\nx\ny\n\n\nz", {"paragraphs": 3, "duplicate_paragraphs": 1}),
        ("a b c a b d a b", {"top_2_gram_characters": 6, "top_3_gram_characters": 0}),
        ("one two é two one two", {"top_2_gram_characters": 12, "characters": 21}),
        ("a b c d e f x a b c d e f", {"duplicate_5_gram_characters": 6}),  # two overlap in it
        ("a b c d e f x a b c d e f", {"duplicate_6_gram_characters": 6}),
        ("a b c d e f x a b c d e f", {"duplicate_7_gram_characters": 0}),
    ],
)
def test_repetition_by_hand(text, expected):
    (row,) = index.native().repetition([text.encode()], 1).tolist()
    counts = dict(zip(index_reference.REPETITION, row, strict=True))
    if not text:
        assert set(row) == {0}
    assert {name: counts[name] for name in expected} == expected


WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def largest_error(order: np.ndarray, weights: list[int]) -> float:
    """The most that a source's count is off its share at any time, in samples."""
    total = sum(weights)
    counts = np.cumsum(order[:, None] == np.arange(len(weights)), axis=0)
    shares = np.arange(1, len(order) + 1)[:, None] * np.array(weights)
    return np.abs(counts * total - shares).max() / total


@needs_index
@quick
@given(WEIGHTS)
def test_blend(weights):
    order = native().blend(weights)
    assert order.dtype == np.int32
    assert np.array_equal(order, index_reference.blend(weights))
    assert np.bincount(order, minlength=len(weights)).tolist() == weights
    assert largest_error(order, weights) < 1


def test_giving_to_the_largest_lack_drifts_by_more_than_a_sample():
    """Why the rule of `blend` is not the simple one."""
    weights = [1, 12, 12, 3, 1, 12, 3]
    total, lack, order = sum(weights), np.zeros(len(weights), np.int64), []
    for _ in range(total):
        lack += weights
        order.append(lack.argmax())
        lack[order[-1]] -= total
    assert largest_error(np.array(order), weights) > 1
    assert largest_error(index.native().blend(weights), weights) < 1


@needs_index
def test_a_blend_of_ten_million_samples_is_within_one_at_each():
    weights = [4_500_000, 2_000_000, 1_000_001, 1_000_000, 999_999, 500_000]
    order = native().blend(weights)
    assert len(order) == 10_000_000
    most = 0
    for source, weight in enumerate(weights):
        counts = np.cumsum(order == source, dtype=np.int64)
        shares = np.arange(1, len(order) + 1) * weight
        most = max(most, int(np.abs(counts * len(order) - shares).max()))
    assert most < len(order)


@needs_index
@quick
@given(st.integers(1, 200).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c)))))
def test_pack(case):
    capacity, lengths = case[0], np.array(case[1], np.int64)
    order, ends = native().pack(lengths, capacity)
    expected = index_reference.pack(lengths, capacity)
    assert order.dtype == ends.dtype == np.int64
    assert np.array_equal(order, expected[0]) and np.array_equal(ends, expected[1])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    full = [int(lengths[order[first:end]].sum()) for first, end in pairwise(ends.tolist())]
    assert all(0 < one <= capacity for one in full)
    assert len(full) < 2 * lengths.sum() / capacity + 1  # no two bins could be one


DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64]


@needs_index
@quick
@given(
    st.sampled_from(DTYPES),
    st.lists(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), max_size=3), max_size=4),
    st.integers(12, 15),
)
def test_gather_rows(dtype, rows, seq_len):
    data = np.random.default_rng(0).integers(0, 127, 55).astype(dtype)
    starts, lengths = (np.array([p[i] for row in rows for p in row], np.int64) for i in (0, 1))
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    found = native().gather_rows(data, starts, lengths, ends, seq_len)
    expected = index_reference.gather_rows(data, starts, lengths, ends, seq_len)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == two.dtype and np.array_equal(one, two)


@needs_index
@quick
@given(st.integers(1, 500), st.integers(1, 8))
def test_threads_share_the_work_without_gaps(count, threads):
    texts = [f"text {i}".encode() for i in range(count)]
    hashes, offsets = native().shingles(texts, "words", 2, False, threads)
    assert offsets.tolist() == list(range(count + 1))
    assert len(set(hashes.tolist())) == count


@needs_index
def test_a_wrong_argument_is_named():
    module, (a, b) = native(), permutations(4)
    with pytest.raises(ValueError, match="unit=bytes: set words or characters"):
        module.minhash([], a, b, "bytes", 5, False, 1)
    with pytest.raises(ValueError, match="width=0: must be at least 1"):
        module.shingles([], "words", 0, False, 1)
    with pytest.raises(ValueError, match="num_bands=3: must divide the columns"):
        module.candidates(np.zeros((2, 4), np.uint32), 3, 64, 1)
    sets = np.arange(5, dtype=np.uint64), np.array([0, 3, 5])
    for pairs in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(ValueError, match="pairs: must be .* of rows below 2"):
            module.overlaps(*sets, np.array(pairs), 1)
    for offsets in ([0, 3, 4], [1, 5], [0, 6, 5], []):
        with pytest.raises(ValueError, match="offsets: must ascend from 0"):
            module.overlaps(sets[0], np.array(offsets, np.int64), np.array([[0, 1]]), 1)
    one_row = np.array([0, 1])
    for start, length in ((-1, 2), (7, 3), (10, 1), (2**63 - 1, 1), (0, 0), (0, 5)):
        with pytest.raises(ValueError, match=f"piece 0: {length} tokens from {start} on do not"):
            piece = np.array([start]), np.array([length])
            module.gather_rows(np.zeros(10, np.uint16), *piece, one_row, 4)
    with pytest.raises(ValueError, match="dtype float32, which holds no tokens"):
        piece = np.array([0]), np.array([1])
        module.gather_rows(np.zeros(10, np.float32), *piece, one_row, 4)
    for weights in ([], [0], [1, -1], [2**23, 2**23 + 1], [1] * 1025):
        with pytest.raises(ValueError, match="weight"):
            module.blend(weights)
    for lengths in ([0], [9, 3], [[1, 2]]):
        with pytest.raises(ValueError, match="each in 1 to capacity=8"):
            module.pack(np.array(lengths), 8)
    with pytest.raises(TypeError):
        module.shingles(["text"], "words", 5, False, 1)
    with pytest.raises(TypeError):  # rounding is nobody's wish
        module.unite(np.arange(3), np.array([[0.0, 1.0]]))
    for parent in ([0, 2, 1], [0, -1, 2], [0, 7, 2]):
        with pytest.raises(ValueError, match="parent: each must be a row that is not above"):
            module.unite(np.array(parent), np.array([[1, 2]]))
    with pytest.raises(ValueError, match="pairs: must be .* below 3"):
        module.remove_similar(np.zeros(3, bool), np.array([[0, 3]]))


def test_every_function_of_the_definition_is_in_the_module():
    if not list(index.PACKAGE.glob("_index.*")):
        pytest.skip("the C++ module megafm._index is not built: make setup")
    assert index.missing() is None


def test_without_the_module_python_takes_over_with_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "PACKAGE", tmp_path)
    index.native.cache_clear()
    try:
        with pytest.warns(UserWarning, match="_index is not built") as seen:
            assert index.native() is index.native() is index_reference
        assert len(seen) == 1
        assert str(seen[0].message).endswith(f"run: {index.FIX}")
    finally:
        index.native.cache_clear()

"""What megafm._index computes, in Python: the definition, and what runs where it is not built.

Every function is deterministic and independent of `threads`. Hashes are integers modulo a power of
two; no float is involved. The C++ is in csrc/index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np

from megafm.data.permutation import mix
from megafm.data.samples import NO_TARGET

__all__ = [
    "blend",
    "candidates",
    "gather_rows",
    "minhash",
    "near_fingerprints",
    "overlaps",
    "pack",
    "remove_similar",
    "repetition",
    "shingles",
    "signatures",
    "simhash",
    "unite",
]

REPETITION = (  # the columns of `repetition`
    "characters",
    *("lines", "duplicate_lines", "duplicate_line_characters"),
    *("paragraphs", "duplicate_paragraphs", "duplicate_paragraph_characters"),
    *(f"top_{n}_gram_characters" for n in (2, 3, 4)),
    *(f"duplicate_{n}_gram_characters" for n in range(5, 11)),
)

BASE = 0x9E3779B97F4A7C15  # of the polynomial in the units of a shingle
UINT64 = 2**64 - 1
FOLD = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
# Latin-1, general and CJK punctuation in UTF-8, then ASCII.
SEPARATOR = re.compile(
    rb"(?:\xc2[\xa0-\xbf]|\xe2[\x80\x81][\x80-\xbf]|\xe3\x80[\x80-\xbf]|[^0-9A-Za-z_\x80-\xff])+"
)
CHARACTER = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xff][\x80-\xbf]{0,3}|.", re.S
)


def shingles(
    texts: Sequence[bytes], unit: str, width: int, lowercase: bool, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """The set of hashed shingles of each text: runs of `width` words or characters.

    A word is a run of ASCII letters, digits, underscores and bytes above 127 other than
    punctuation; all else only separates. A character is a UTF-8 sequence, each run of ASCII white
    space being one space, with none at either end. A text of fewer units than `width` has one
    shingle of all of them, a text without any the shingle 0.

    Args:
        unit: words or characters.
        lowercase: take A-Z as a-z.

    Returns:
        hashes, offsets: set i, ascending, is uint64 hashes[offsets[i]:offsets[i + 1]].
    """
    sets = [np.unique(_shingles(text, unit, width, lowercase)) for text in texts]
    offsets = np.cumsum([0, *map(len, sets)], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.uint64), *sets]), offsets


def minhash(
    texts: Sequence[bytes],
    a: np.ndarray,
    b: np.ndarray,
    unit: str,
    width: int,
    lowercase: bool,
    threads: int,
) -> np.ndarray:
    """The `signatures` of the texts' shingles, of which the upper 32 bits are taken."""
    hashes, offsets = shingles(texts, unit, width, lowercase, threads)
    return signatures((hashes >> np.uint64(32)).astype(np.uint32), offsets, a, b, threads)


def signatures(
    hashes: np.ndarray, offsets: np.ndarray, a: np.ndarray, b: np.ndarray, threads: int
) -> np.ndarray:
    """MinHash signatures, uint32 (sets, permutations): the scheme "affine32" of datasketch 2.0.

    Entry [i, p] is the least a[p] * f(h) + b[p] modulo 2**32 over the hashes h of set i, where f
    is the finaliser of 32-bit MurmurHash3; 2**32 - 1 for an empty set. Every a[p] must be odd.

    Args:
        hashes, offsets: uint32 and int64: set i is hashes[offsets[i]:offsets[i + 1]].
        a, b: uint32, one per permutation.
    """
    spread = hashes ^ (hashes >> np.uint32(16))
    spread = spread * np.uint32(0x85EBCA6B)
    spread = spread ^ (spread >> np.uint32(13))
    spread = spread * np.uint32(0xC2B2AE35)
    spread = spread ^ (spread >> np.uint32(16))
    result = np.full((len(offsets) - 1, len(a)), 2**32 - 1, np.uint32)
    for row, (first, end) in enumerate(pairwise(offsets.tolist())):
        if end > first:
            result[row] = (spread[first:end, None] * a + b).min(axis=0)
    return result


def candidates(signatures: np.ndarray, num_bands: int, max_bucket: int, threads: int) -> np.ndarray:
    """Pairs i < j of rows that agree in all of one of `num_bands` equal bands of columns.

    Of a bucket of more than `max_bucket` equal rows (boilerplate), each row is paired with the
    first `max_bucket` alone. Source: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets,
    chapter 3.

    Returns:
        int64 (pairs, 2), sorted, each pair once.
    """
    found: set[tuple[int, int]] = set()
    for band in np.split(signatures, num_bands, axis=1):
        buckets: dict[bytes, list[int]] = {}
        for row, values in enumerate(band):
            buckets.setdefault(values.tobytes(), []).append(row)
        for rows in buckets.values():
            found.update(_pairs(rows, max_bucket))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def simhash(
    texts: Sequence[bytes], unit: str, width: int, lowercase: bool, threads: int
) -> np.ndarray:
    """A fingerprint of each text, uint64 (texts,): bit j is set if more than half of the hashes of
    its shingles, repeats included, have it. Source: Charikar, Similarity estimation techniques
    from rounding algorithms (2002)."""
    fingerprints = []
    for text in texts:
        hashes = _shingles(text, unit, width, lowercase)
        bits = hashes[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
        more = 2 * bits.sum(axis=0, dtype=np.int64) > len(hashes)
        fingerprints.append(sum(1 << bit for bit in np.flatnonzero(more).tolist()))
    return np.array(fingerprints, np.uint64)


def near_fingerprints(fingerprints: np.ndarray, most: int, max_bucket: int) -> np.ndarray:
    """Pairs i < j that differ in at most `most` (0 to 15) bits: int64 (pairs, 2), sorted.

    Such a pair agrees in one of most + 1 blocks of bits; of more than `max_bucket` rows that agree
    in a block, each is compared with the first of them alone. Source: Manku, Jain, Das Sarma,
    Detecting near-duplicates for web crawling (2007).
    """
    found: set[tuple[int, int]] = set()
    values = fingerprints.tolist()
    for block in range(most + 1):
        begin, end = 64 * block // (most + 1), 64 * (block + 1) // (most + 1)
        buckets: dict[int, list[int]] = {}
        for row, value in enumerate(values):
            buckets.setdefault(value >> begin & (1 << end - begin) - 1, []).append(row)
        for rows in buckets.values():
            found.update(_pairs(rows, max_bucket))
    near = [(i, j) for i, j in sorted(found) if (values[i] ^ values[j]).bit_count() <= most]
    return np.array(near, np.int64).reshape(-1, 2)


def overlaps(
    hashes: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, threads: int
) -> np.ndarray:
    """The size of the intersection of each pair of the sets of `shingles`, int64 (pairs,)."""
    sets = [hashes[first:end] for first, end in pairwise(offsets.tolist())]
    sizes = [len(np.intersect1d(sets[i], sets[j], assume_unique=True)) for i, j in pairs.tolist()]
    return np.array(sizes, np.int64)


def unite(parent: np.ndarray, pairs: np.ndarray) -> None:
    """Union-find, in place: join the sets of the rows of each pair.

    Args:
        parent: of each row a smaller one of its set, or itself, the smallest, int64 (rows,).
    """

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for i, j in pairs.tolist():
        low, high = sorted((root(i), root(j)))
        parent[high] = low


def remove_similar(removed: np.ndarray, pairs: np.ndarray) -> None:
    """Set, in place, bool (rows,), the second row of each pair in turn whose first is not set."""
    for i, j in pairs.tolist():
        removed[j] |= not removed[i]


def blend(weights: Sequence[int]) -> np.ndarray:
    """The source of each of the first sum(weights) samples, int32; after them the order repeats.

    Before each sample every source's count is within one sample of its share. That takes more
    than giving each sample to the source that lacks most, which drifts with many sources. Of the
    sources that lack at least 1 / (2k - 2) of a sample, the one goes next whose lack would be
    the first to reach 1 - 1 / (2k - 2). Source: Tijdeman, The chairman assignment problem,
    Discrete Mathematics 32 (1980).
    """
    total, scale = sum(weights), max(2 * len(weights) - 2, 1)
    lack = [0] * len(weights)  # share less count, in 1 / (scale * total) of a sample
    order = np.empty(total, np.int32)
    for sample in range(total):
        lack = [n + scale * weight for n, weight in zip(lack, weights, strict=True)]
        eligible = [i for i, n in enumerate(lack) if n >= total]
        left = {i: Fraction((scale - 1) * total - lack[i], weights[i]) for i in eligible}
        order[sample] = min(eligible, key=left.__getitem__)
        lack[order[sample]] -= scale * total
    return order


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit-decreasing bin packing of documents whose lengths are in 1 .. capacity.

    The longest goes first, each into the bin with the least room that holds it, or a new one; of
    equal documents the first is taken first, of bins with equal room the one filled last. Source:
    Johnson, Near-optimal bin packing algorithms (1973).

    Returns:
        order, ends: int64, bin i holds the documents order[ends[i]:ends[i + 1]].
    """
    bins: list[list[int]] = []
    rooms: dict[int, list[int]] = {}
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        room = min((r for r, some in rooms.items() if some and r >= length), default=capacity)
        if rooms.get(room):
            number = rooms[room].pop()
        else:
            number = len(bins)
            bins.append([])
        bins[number].append(document)
        if room > length:
            rooms.setdefault(room - length, []).append(number)
    order = np.array([document for one in bins for document in one], np.int64)
    return order, np.cumsum([0, *map(len, bins)], dtype=np.int64)


def gather_rows(
    data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, ends: np.ndarray, seq_len: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of pieces of a token stream, of which tokens[i] has tokens[i + 1] as its target.

    Args:
        data: integers of any type, all tokens of a shard.
        starts, lengths: int64, of each piece, whose last target is data[start + length].
        ends: int64, row i holds the pieces ends[i]:ends[i + 1], one after the other.

    Returns:
        tokens, targets, begins: int64, int64 and bool (rows, seq_len). What is left of a row is
        padding, token 0 and target NO_TARGET; begins says where a piece, or padding, begins.
    """
    shape = len(ends) - 1, seq_len
    tokens, targets = np.zeros(shape, np.int64), np.full(shape, NO_TARGET, np.int64)
    begins = np.zeros(shape, bool)
    for row, (first, end) in enumerate(pairwise(ends.tolist())):
        at = 0
        for piece in range(first, end):
            start, length = int(starts[piece]), int(lengths[piece])
            tokens[row, at : at + length] = data[start : start + length]
            targets[row, at : at + length] = data[start + 1 : start + length + 1]
            begins[row, at] = True
            at += length
        begins[row, at:][:1] = True
    return tokens, targets, begins


def repetition(texts: Sequence[bytes], threads: int) -> np.ndarray:
    """How much of each text repeats itself: int64 (texts, columns of REPETITION).

    Characters are code points. A line or paragraph (parted by one, by two or more newlines) is a
    duplicate if an equal one stands before it. Words are parted by ASCII white space. Characters
    of the top n-gram are those of its words in all its occurrences, 0 if it has one; of equally
    frequent ones the longest counts. Those of duplicate n-grams are of words in an n-gram that
    also stands before, each word once. Source: Rae et al., Scaling Language Models (Gopher), 2021,
    table A1.
    """
    rows = [_repetition(text) for text in texts]
    return np.array(rows, np.int64).reshape(-1, len(REPETITION))


def _repetition(text: bytes) -> list[int]:
    words = text.split()
    counts = [_length(text), *_duplicates(re.split(rb"\n+", text.strip(b"\n")))]
    counts += _duplicates(re.split(rb"\n{2,}", text.strip(b"\n")))
    for n in (2, 3, 4):
        grams = Counter(_grams(words, n))
        most = max(grams.values(), default=1)
        lengths = [sum(map(_length, gram)) for gram, count in grams.items() if count == most > 1]
        counts.append(most * max(lengths, default=0))
    for n in range(5, 11):
        seen: set[tuple[bytes, ...]] = set()
        covered: set[int] = set()
        for first, gram in enumerate(_grams(words, n)):
            if gram in seen:
                covered.update(range(first, first + n))
            seen.add(gram)
        counts.append(sum(_length(words[i]) for i in covered))
    return counts


def _duplicates(parts: Sequence[bytes]) -> tuple[int, int, int]:
    """How many parts there are, how many are duplicates, and the characters of those."""
    counts = Counter(filter(None, parts))
    again = [(count - 1, part) for part, count in counts.items()]
    characters = sum(count * _length(part) for count, part in again)
    return counts.total(), sum(count for count, _ in again), characters


def _grams(words: Sequence[bytes], n: int) -> list[tuple[bytes, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _length(text: bytes) -> int:
    """Code points: bytes that continue none."""
    return sum(byte & 0xC0 != 0x80 for byte in text)


def _shingles(text: bytes, unit: str, width: int, lowercase: bool) -> np.ndarray:
    folded = text.translate(FOLD) if lowercase else text
    units = np.array(_words(folded) if unit == "words" else _characters(folded), np.uint64)
    if len(units) == 0:
        return np.zeros(1, np.uint64)
    width = min(width, len(units))
    value = np.zeros(len(units) - width + 1, np.uint64)
    for offset in range(width):
        value = value * np.uint64(BASE) + units[offset : offset + len(value)]
    return mix(value)


def _words(text: bytes) -> list[int]:
    """A hash of each word, from eight bytes at a time."""
    found = []
    for word in filter(None, SEPARATOR.split(text)):
        value = 0
        for first in range(0, len(word), 8):
            value = _mix_one(value ^ int.from_bytes(word[first : first + 8], "little"))
        found.append(value)
    return found


def _characters(text: bytes) -> list[int]:
    spaced = b" ".join(text.split())
    return [_mix_one(int.from_bytes(one, "big")) for one in CHARACTER.findall(spaced)]


def _mix_one(value: int) -> int:
    """`permutation.mix` of one Python integer."""
    value = (value + BASE) & UINT64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & UINT64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & UINT64
    return value ^ (value >> 31)


def _pairs(bucket: list[int], max_bucket: int) -> Iterator[tuple[int, int]]:
    yield from combinations(bucket[:max_bucket], 2)
    for row in bucket[max_bucket:]:
        for other in bucket[:max_bucket]:
            yield other, row

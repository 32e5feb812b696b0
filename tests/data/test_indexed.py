from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import IndexedDataset, IndexedDatasetWriter
from megafm.data.indexed import merge, token_dtype


def write(prefix: Path, documents: list[list[list[int]]], dtype: object = np.uint16) -> None:
    with IndexedDatasetWriter(prefix, dtype) as writer:  # type: ignore[arg-type]
        for sequences in documents:
            writer.add_document(*sequences)


def read_by_the_layout(prefix: Path) -> tuple[int, list[list[int]], list[int]]:
    """A second reader, from the published layout and struct alone."""
    index, tokens = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    (version,) = struct.unpack("<Q", index[9:17])
    assert version == 1
    (code,) = struct.unpack("<B", index[17:18])
    sequences, documents = struct.unpack("<QQ", index[18:34])
    at = 34
    lengths = struct.unpack(f"<{sequences}i", index[at : at + 4 * sequences])
    at += 4 * sequences
    pointers = struct.unpack(f"<{sequences}q", index[at : at + 8 * sequences])
    at += 8 * sequences
    document_indices = struct.unpack(f"<{documents}q", index[at:])
    letter = {4: "i", 8: "H"}[code]
    out = [
        list(struct.unpack_from(f"<{length}{letter}", tokens, pointer))
        for length, pointer in zip(lengths, pointers, strict=True)
    ]
    return code, out, list(document_indices)


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "shard", [[[1, 2, 3]], [[0xFFFE]]])
    assert (tmp_path / "shard.bin").read_bytes() == bytes.fromhex("010002000300feff")
    assert (tmp_path / "shard.idx").read_bytes() == bytes.fromhex(
        "4d4d494449445800 00"  # MMIDIDX
        "0100000000000000 08"  # version 1, uint16
        "0200000000000000 0300000000000000"  # sequences, document indices
        "03000000 01000000"  # lengths
        "0000000000000000 0600000000000000"  # byte offsets
        "0000000000000000 0100000000000000 0200000000000000"
    )


sequence = st.lists(st.integers(0, 65499), max_size=20)


@settings(max_examples=40, deadline=None)
@given(documents=st.lists(st.lists(sequence, min_size=1, max_size=3)), wide=st.booleans())
def test_an_independent_reader_agrees(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], wide: bool
) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "train"
    write(prefix, documents, np.int32 if wide else np.uint16)
    flat = [ids for sequences in documents for ids in sequences]
    code, sequences, document_indices = read_by_the_layout(prefix)
    assert code == (4 if wide else 8)
    assert sequences == flat
    dataset = IndexedDataset(prefix)
    assert [dataset[i].tolist() for i in range(len(dataset))] == flat
    assert dataset.document_indices.tolist() == document_indices
    assert dataset.num_tokens == sum(map(len, flat))
    assert dataset.tokens.tolist() == [token for ids in flat for token in ids]
    assert document_indices[-1] == len(flat)
    assert len(document_indices) == len(documents) + 1


def test_tokens_take_two_bytes_where_the_vocabulary_fits() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


def test_an_id_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write(tmp_path / "shard", [[[70_000]]])
    assert list(tmp_path.iterdir()) == []


def damage(prefix: Path, what: str) -> None:
    bin_path, idx_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    index = bytearray(idx_path.read_bytes())
    if what == "short bin":
        bin_path.write_bytes(bin_path.read_bytes()[:-3])
    elif what == "long bin":
        bin_path.write_bytes(bin_path.read_bytes() + b"\0\0")
    elif what == "no bin":
        bin_path.unlink()
    elif what == "short idx":
        idx_path.write_bytes(index[:-1])
    elif what == "idx of a few bytes":
        idx_path.write_bytes(index[:20])
    else:
        place, value = {"magic": (0, 88), "version": (9, 2), "type": (17, 77)}[what]
        index[place] = value
        idx_path.write_bytes(index)


@pytest.mark.parametrize(
    "what, message",
    [
        ("short bin", r"train.bin: truncated, expected 6 bytes, found 3"),
        ("long bin", r"train.bin: too long, expected 6 bytes, found 8"),
        ("no bin", r"train.bin: no such shard"),
        ("short idx", r"train.idx: truncated, expected 62 bytes, found 61"),
        ("idx of a few bytes", r"train.idx: truncated, expected at least 34 bytes, found 20"),
        ("magic", r"train.idx: not an index, expected b'MMIDIDX.*found b'XMIDIDX"),
        ("version", r"train.idx: expected version 1, found 2"),
        ("type", r"train.idx: expected a token type code of 1 to 8, found 77"),
    ],
)
def test_a_damaged_shard_is_named_with_the_command_that_rebuilds_it(
    tmp_path: Path, what: str, message: str
) -> None:
    write(tmp_path / "train", [[[1, 2, 3]]])
    damage(tmp_path / "train", what)
    with pytest.raises(ValueError, match=message + ".*megafm data action=tokenize data.dir="):
        IndexedDataset(tmp_path / "train")


def test_an_interrupted_writer_leaves_the_old_shard(tmp_path: Path) -> None:
    write(tmp_path / "train", [[[1, 2, 3]]])
    with pytest.raises(KeyboardInterrupt), IndexedDatasetWriter(tmp_path / "train", "u2") as writer:
        writer.add_document([4])
        raise KeyboardInterrupt
    assert IndexedDataset(tmp_path / "train")[0].tolist() == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2


@given(
    parts=st.lists(
        st.lists(st.lists(st.lists(st.integers(0, 299), max_size=4), max_size=2), max_size=4),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
def test_merged_parts_are_what_one_writer_writes(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[list[list[int]]]]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    for number, documents in enumerate(parts):
        write(folder / f"part{number}", documents)
    write(folder / "one", [document for documents in parts for document in documents])
    merged = merge(folder / "merged", [folder / f"part{number}" for number in range(len(parts))])
    assert merged == IndexedDataset(folder / "one").num_tokens
    for suffix in ("bin", "idx"):
        merged_bytes = (folder / f"merged.{suffix}").read_bytes()
        assert merged_bytes == (folder / f"one.{suffix}").read_bytes()


def test_parts_of_two_dtypes_are_not_merged(tmp_path: Path) -> None:
    write(tmp_path / "a", [[[1]]])
    write(tmp_path / "b", [[[1]]], np.int32)
    with pytest.raises(ValueError, match="token types"):
        merge(tmp_path / "c", [tmp_path / "a", tmp_path / "b"])

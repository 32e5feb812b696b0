"""Token files made elsewhere, written here by hand to their published formats."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megafm.data import IndexedDatasetWriter, TrainingData, check_data, training_samples
from megafm.data.config import BlendPart
from megafm.data.indexed import token_dtype
from megafm.data.packed import PackedDocuments
from megafm.data.token_formats import Headerless, open_tokens
from megafm.data.windows import TokenWindows

rng = np.random.default_rng(3)
LENGTHS = (5, 1, 300, 40, 7, 513, 2)
DOCUMENTS = [np.append(rng.integers(1, 60_000, n - 1), 0) for n in LENGTHS]  # 0 ends them
EOD = Headerless(eod_id=0)


def write_megatron(folder: Path, dtype: str = "<u2") -> None:
    """Documents of one or two sequences; header by struct."""
    parts = [half for ids in DOCUMENTS for half in ((ids[:3], ids[3:]) if len(ids) > 3 else (ids,))]
    firsts = np.cumsum([0, *(2 if len(ids) > 3 else 1 for ids in DOCUMENTS)])
    lengths = [len(part) for part in parts]
    pointers = np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize
    code = {"<u2": 8, "<i4": 4, "<i8": 5}[dtype]
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(parts), len(firsts))
    arrays = np.array(lengths, "<i4").tobytes() + pointers.astype("<i8").tobytes()
    folder.joinpath("train.idx").write_bytes(head + arrays + firsts.astype("<i8").tobytes())
    folder.joinpath("train.bin").write_bytes(np.concatenate(DOCUMENTS).astype(dtype).tobytes())


def write_datatrove(folder: Path, letter: str = "H") -> None:
    for name, documents in (("00000_x.ds", DOCUMENTS[:4]), ("00001_x.ds", DOCUMENTS[4:])):
        flat = np.concatenate(documents).tolist()
        ends = np.cumsum([len(ids) for ids in documents]).tolist()
        (folder / name).write_bytes(struct.pack(f"<{len(flat)}{letter}", *flat))
        (folder / f"{name}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
        (folder / f"{name}.metadata").write_text(f"gpt2|2\n{len(flat)}\n1 T")


def write_npy(folder: Path, dtype: str = "<u2") -> None:
    flat = np.concatenate(DOCUMENTS).astype(dtype)
    (folder / "part-0-00000.npy").write_bytes(flat[:305].tobytes())  # inside a document
    (folder / "part-1-00000.npy").write_bytes(flat[305:].tobytes())


def write_mds(folder: Path, encoding: str = "ndarray:uint16", zstd: bool = False) -> None:
    """Two shards of samples of a text, a number and tokens, columns in the order of names."""
    shards = []
    for number, documents in enumerate((DOCUMENTS[:2], DOCUMENTS[2:])):
        info = {
            "column_encodings": ["str", "int", encoding],
            "column_names": ["id", "number", "tokens"],
            "column_sizes": [None, 8, None],
            "compression": "zstd:3" if zstd else None,
            "format": "mds",
            "hashes": [],
            "size_limit": 1 << 26,
            "version": 2,
        }
        settings = json.dumps(info, sort_keys=True).encode()
        samples = [_mds_sample(f"d{i}" * (i + 1), ids, encoding) for i, ids in enumerate(documents)]
        begin = 4 + 4 * (len(samples) + 1) + len(settings)
        offsets = np.cumsum([begin, *map(len, samples)]).astype("<u4")
        head = struct.pack("<I", len(samples)) + offsets.tobytes()
        raw = head + settings + b"".join(samples)
        name = f"shard.{number:05}.mds"
        info["raw_data"] = {"basename": name, "bytes": len(raw), "hashes": {}}
        info |= {"samples": len(samples), "zip_data": None}
        if zstd:
            zstandard = pytest.importorskip("zstandard", reason="the extra data is not installed")
            packed = zstandard.ZstdCompressor().compress(raw)
            (folder / f"{name}.zstd").write_bytes(packed)
            zipped = {"basename": f"{name}.zstd", "bytes": len(packed), "hashes": {}}
            info["zip_data"] = zipped
        else:
            (folder / name).write_bytes(raw)
        shards.append(info)
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))


def _mds_sample(name: str, ids: np.ndarray, encoding: str) -> bytes:
    kind, _, dtype = encoding.partition(":")
    data = ids.astype(dtype or "int64").tobytes()
    if kind == "ndarray":  # one dimension, whose size takes one or two bytes
        wide = len(ids) > 255
        data = bytes([1 << 2 | wide]) + struct.pack("<H" if wide else "<B", len(ids)) + data
    columns = name.encode(), struct.pack("<q", -1), data
    return struct.pack("<II", len(columns[0]), len(columns[2])) + b"".join(columns)


WRITERS: dict[str, tuple[Any, dict[str, Any], Headerless]] = {
    "megatron uint16": (write_megatron, {}, Headerless()),
    "megatron int32": (write_megatron, {"dtype": "<i4"}, Headerless()),
    "megatron int64": (write_megatron, {"dtype": "<i8"}, Headerless()),
    "datatrove 2 bytes": (write_datatrove, {}, Headerless()),
    "datatrove 4 bytes": (write_datatrove, {"letter": "I"}, Headerless()),
    "olmo uint16": (write_npy, {}, EOD),
    "olmo uint32": (write_npy, {"dtype": "<u4"}, Headerless("uint32", 0)),
    "mds arrays": (write_mds, {}, Headerless()),
    "mds bytes": (write_mds, {"encoding": "bytes"}, Headerless()),
    "mds zstd": (write_mds, {"encoding": "ndarray:int32", "zstd": True}, Headerless()),
}


@pytest.fixture(params=WRITERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Headerless]:
    write, options, headerless = WRITERS[request.param]
    write(tmp_path, **options)
    return tmp_path, headerless


def test_documents_are_those_that_were_written(made: tuple[Path, Headerless]) -> None:
    folder, headerless = made
    tokens = open_tokens(folder / "train", headerless)
    assert tokens.num_tokens == sum(LENGTHS)
    assert tokens.document_edges.tolist() == np.cumsum([0, *LENGTHS]).tolist()
    edges = tokens.document_edges
    order = rng.permutation(len(DOCUMENTS))
    data, places = tokens.gather(edges[:-1][order], np.diff(edges)[order])
    for number, place in zip(order.tolist(), places.tolist(), strict=True):
        ids = DOCUMENTS[number]
        assert data[place : place + len(ids)].tolist() == ids.tolist()


def test_samples_are_those_of_the_same_tokens_in_our_shard(made: tuple[Path, Headerless]) -> None:
    folder, headerless = made
    with IndexedDatasetWriter(folder / "ours" / "train", np.uint16) as writer:
        for ids in DOCUMENTS:
            writer.add_document(ids)
    for kind in (TokenWindows, PackedDocuments):
        theirs = kind(folder / "train", 16, 7, headerless).batch(3, 90)
        ours = kind(folder / "ours" / "train", 16, 7).batch(3, 90)
        assert (theirs.tokens == ours.tokens).all()
        assert (theirs.targets == ours.targets).all()


def test_a_folder_named_train_is_looked_into_and_a_validation_shard_is_not_made_up(
    tmp_path: Path,
) -> None:
    (tmp_path / "train").mkdir()
    write_datatrove(tmp_path / "train")
    assert open_tokens(tmp_path / "train").num_tokens == sum(LENGTHS)
    write_npy(tmp_path)
    with pytest.raises(ValueError, match="validation.bin: no such shard"):
        open_tokens(tmp_path / "validation")


def test_a_header_of_numpy_is_obeyed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.concatenate(DOCUMENTS).astype(np.int32))
    tokens = open_tokens(tmp_path / "train", EOD)
    assert tokens.document_edges.tolist() == np.cumsum([0, *LENGTHS]).tolist()


def test_documents_end_with_their_token_wherever_samples_do(tmp_path: Path) -> None:
    write_mds(tmp_path)
    five = int(DOCUMENTS[2][5])
    tokens = open_tokens(tmp_path / "train", Headerless(eod_id=five))
    flat = np.concatenate(DOCUMENTS)
    ends = (np.flatnonzero(flat == five) + 1).tolist()
    assert tokens.document_edges.tolist() == [0, *ends, len(flat)]


@pytest.mark.parametrize("vocab_size", [65_499, 65_500, 65_535, 65_536, 65_537, 65_538])
def test_the_last_ids_of_vocabularies_around_two_bytes_come_back(
    tmp_path: Path, vocab_size: int
) -> None:
    last = list(range(vocab_size - 20, vocab_size))
    with IndexedDatasetWriter(tmp_path / "train", token_dtype(vocab_size)) as writer:
        writer.add_document(last)
    tokens = open_tokens(tmp_path / "train")
    batch = TokenWindows(tmp_path / "train", 19).batch(0, 1)
    assert [*batch.tokens[0].tolist(), int(batch.targets[0, -1])] == last
    assert tokens.gather(np.array([0]), np.array([20]))[0].dtype == token_dtype(vocab_size)


def test_ids_of_two_bytes_are_not_taken_for_negative_numbers(tmp_path: Path) -> None:
    """65,535 in a file of uint16, and 2**31 - 1 in one of uint32."""
    (tmp_path / "a.npy").write_bytes(np.full(9, 65_535, "<u2").tobytes())
    assert (TokenWindows(tmp_path / "train", 8).batch(0, 1).tokens == 65_535).all()
    (tmp_path / "a.npy").write_bytes(np.full(9, 2**31 - 1, "<u4").tobytes())
    windows = TokenWindows(tmp_path / "train", 8, 0, Headerless("uint32"))
    assert (windows.batch(0, 1).tokens == 2**31 - 1).all()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def test_files_that_are_cut_off_are_named(tmp_path: Path) -> None:
    for name, write in (("d", write_datatrove), ("n", write_npy), ("m", write_mds)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    cut_off(tmp_path / "d" / "00001_x.ds")
    with pytest.raises(ValueError, match=r"00001_x.ds: \d+ bytes for the 522 tokens of 00001"):
        open_tokens(tmp_path / "d" / "train")
    (tmp_path / "d" / "00001_x.ds.index").unlink()
    with pytest.raises(ValueError, match="no 00001_x.ds.index beside it; write it with save_index"):
        open_tokens(tmp_path / "d" / "train")
    cut_off(tmp_path / "n" / "part-1-00000.npy")
    with pytest.raises(ValueError, match=r"part-1-00000.npy: \d+ bytes are no whole number"):
        open_tokens(tmp_path / "n" / "train")
    cut_off(tmp_path / "m" / "shard.00001.mds")
    with pytest.raises(ValueError, match=r"shard.00001.mds: expected \d+ bytes, found \d+"):
        open_tokens(tmp_path / "m" / "train")
    (tmp_path / "m" / "shard.00001.mds").unlink()
    with pytest.raises(ValueError, match="shard.00001.mds: no such shard of .*index.json"):
        open_tokens(tmp_path / "m" / "train")


def test_a_column_that_holds_no_tokens_is_refused(tmp_path: Path) -> None:
    write_mds(tmp_path, "pkl")
    with pytest.raises(ValueError, match="column tokens is of encoding pkl.*ndarray:uint16"):
        open_tokens(tmp_path / "train")


def test_sequences_out_of_order_are_refused(tmp_path: Path) -> None:
    write_megatron(tmp_path)
    index = bytearray((tmp_path / "train.idx").read_bytes())
    sequences = struct.unpack_from("<Q", index, 18)[0]
    struct.pack_into("<q", index, 34 + 4 * sequences + 8, 4)
    (tmp_path / "train.idx").write_bytes(index)
    with pytest.raises(ValueError, match="sequences do not follow each other in the .bin"):
        open_tokens(tmp_path / "train")


def test_a_blend_takes_files_made_elsewhere_after_a_look_at_their_ids(tmp_path: Path) -> None:
    from megafm.tokenizer import Tokenizer
    from tests.corpus import make_corpus

    corpus = make_corpus(tmp_path / "corpus")
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    ours, theirs = str(corpus / "data"), str(tmp_path / "theirs")
    (tmp_path / "theirs").mkdir()
    ids = np.arange(tokenizer.vocab_size, dtype="<u2")
    (tmp_path / "theirs" / "a.npy").write_bytes(ids.tobytes())
    data = TrainingData(ours, (BlendPart(ours, 1), BlendPart(theirs, 1)))
    with pytest.warns(UserWarning, match="theirs: made elsewhere, so nothing says"):
        snapshot = check_data(data, tokenizer)
    assert training_samples(data, 32, 1).batch(0, 4).tokens.max() < tokenizer.vocab_size
    (tmp_path / "theirs" / "b.npy").write_bytes(ids.tobytes())
    with pytest.warns(UserWarning):
        assert check_data(data, tokenizer) != snapshot
    (tmp_path / "theirs" / "a.npy").write_bytes((ids + 1).tobytes())
    with pytest.raises(ValueError, match="has the token 300, the tokenizer only 300; set tok"):
        check_data(data, tokenizer)

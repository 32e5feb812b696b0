from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import pytest

from megafm.evaluate import baselines
from megafm.evaluate.baselines import BASELINES_FILE, measure_baselines, xz_size
from megafm.evaluate.ngram import ByteNgram
from tests.tiny_run import TRAIN, VALIDATION, write_data


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_data(tmp_path, VALIDATION)
    return tmp_path


def test_both_baselines_code_the_same_bytes_each_document_on_its_own(data_dir: Path) -> None:
    found = measure_baselines(data_dir)
    texts = [text.encode() for text in VALIDATION]
    size = sum(map(len, texts))
    assert {baseline.bytes for baseline in found.values()} == {size}
    packed = sum(len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in texts)
    assert found["xz"].bits_per_byte == pytest.approx(8 * packed / size)
    ngram = ByteNgram.train([text.encode() for text in TRAIN])
    assert found["ngram"].bits_per_byte == pytest.approx(ngram.bits(texts) / size)


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
def test_a_small_dictionary_compresses_as_well_as_the_preset(size: int) -> None:
    source = Path(lzma.__file__).read_bytes()
    data = (source * (size // len(source) + 1))[:size]
    assert xz_size(data) == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_baselines_are_measured_once_for_a_snapshot(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure_baselines(data_dir)
    monkeypatch.setattr(baselines, "ngram_baseline", None)
    assert measure_baselines(data_dir) == first


def test_baselines_of_another_snapshot_are_measured_again(data_dir: Path) -> None:
    first = measure_baselines(data_dir)
    write_data(data_dir, VALIDATION[:1], snapshot_id="b")
    assert measure_baselines(data_dir)["xz"].bytes < first["xz"].bytes


def test_another_order_is_measured_again(data_dir: Path) -> None:
    assert measure_baselines(data_dir)["ngram"].name == "byte 5-gram"
    assert measure_baselines(data_dir, ngram_order=3)["ngram"].name == "byte 3-gram"


def test_a_damaged_cache_is_measured_again(data_dir: Path) -> None:
    first = measure_baselines(data_dir)
    (data_dir / BASELINES_FILE).write_text('{"snapshot_id": "a"')
    again = measure_baselines(data_dir)
    for name in first:
        assert dataclasses.replace(again[name], seconds=first[name].seconds) == first[name]


def test_progress_accounts_for_every_byte(data_dir: Path) -> None:
    done: dict[str, int] = {}
    measure_baselines(data_dir, advance=lambda what, n: done.update({what: done.get(what, 0) + n}))
    train = sum(len(text.encode()) for text in TRAIN)
    validation = sum(len(text.encode()) for text in VALIDATION)
    assert list(done.values()) == [train, validation, validation]


def test_an_empty_validation_split_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, [])
    with pytest.raises(ValueError, match="validation split has no text"):
        measure_baselines(tmp_path)


def test_a_read_only_data_folder_is_measured_too(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, text: str) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(baselines, "write_text", read_only)
    assert measure_baselines(data_dir)["xz"].bits_per_byte > 0

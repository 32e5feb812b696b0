from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megafm.data.stages import exchange
from megafm.data.stages.exchange import PartWriter, part_of, parts_of, read_part, read_records


@pytest.mark.parametrize("buffer", [1, 20, 1 << 20])
def test_each_part_gets_its_own_bytes_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr(exchange, "BUFFER_BYTES", buffer)
    expected: dict[int, bytes] = {}
    with PartWriter(tmp_path / "x.parts") as writer:
        for number in range(100):
            part, data = number % 7, f"{number},".encode()
            writer.add(part, data)
            expected[part] = expected.get(part, b"") + data
    for part, data in expected.items():
        assert b"".join(read_part(tmp_path / "x.parts", part)) == data
    assert list(read_part(tmp_path / "x.parts", 7)) == []


def test_records_go_to_the_parts_beside_them(tmp_path: Path) -> None:
    values = np.arange(50, dtype=np.int64)
    with PartWriter(tmp_path / "x.parts") as writer:
        writer.add_records(values[:0], values[:0])
        writer.add_records(values % 3, values)
    for part in range(3):
        found = read_records(tmp_path / "x.parts", part, values.dtype)
        assert found.tolist() == list(range(part, 50, 3))


@pytest.mark.parametrize("num_parts", [1, 2, 64])
def test_parts_are_equal_ranges_of_hashes(num_parts: int) -> None:
    values = np.array([0, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    expected = [value * num_parts // 2**64 for value in values.tolist()]
    assert parts_of(values, num_parts).tolist() == expected
    assert [part_of(value, num_parts) for value in values.tolist()] == expected

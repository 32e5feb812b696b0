from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megafm.parallel import world


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[pair.cc:553] Connection closed by peer [127.0.0.1]:37531", ConnectionError),
        ("NCCL error: remote process exited or there was a network error", ConnectionError),
        ("shape mismatch", RuntimeError),
    ],
)
def test_a_lost_rank_is_one_line_and_a_fault_is_itself(
    message: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with pytest.raises(expected), world.process_group(torch.device("cpu"), 1.0):
        raise RuntimeError(message)

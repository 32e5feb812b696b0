from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.ranks import RankPool

torch.set_num_threads(1)  # two ranks and pytest share two cores


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    pool = RankPool()
    yield pool
    pool.close()

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megafm import cpus, device
from tests.corpus import make_corpus
from tests.ranks import RankPool

# Two ranks and pytest share two cores, in what the tests run and in the jobs that they call.
torch.set_num_threads(1)
device.num_cpus = cpus.num_cpus = lambda: 1


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))

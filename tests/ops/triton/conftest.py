from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run: a GPU, or a CPU under the interpreter (tests/__init__.py)."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")


def test_the_interpreter_is_on_for_all_of_triton(device: torch.device) -> None:
    """Triton's own library, such as tl.sum, is interpreted only if the variable came first."""
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    assert isinstance(standard.sum, InterpretedFunction) == (device.type == "cpu")

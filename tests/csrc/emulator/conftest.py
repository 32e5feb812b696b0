from __future__ import annotations

import pytest

from tests.csrc.emulator.library import Library, build_emulated, why_no_compiler


@pytest.fixture(scope="session")
def emulated() -> Library:
    reason = why_no_compiler()
    if reason is not None:
        pytest.skip(reason)
    return Library(build_emulated())

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch

from tests.csrc.emulator.library import Library, build_cuda, build_emulated, compile_ops

# The conformance tests (test_core, test_ptx_*) run on both where there is a GPU.
HAS_CUDA = torch.cuda.is_available() and shutil.which("nvcc") is not None
BACKENDS = ["emulator", *([pytest.param("cuda", marks=pytest.mark.gpu)] if HAS_CUDA else [])]


@pytest.fixture(scope="session")
def emulated() -> Library:
    reason = compile_ops.why_no_compiler()
    if reason is not None:
        pytest.skip(reason)
    return Library(build_emulated())


@pytest.fixture(params=[1, 2, 3, 4])
def seeded(request: pytest.FixtureRequest, emulated: Library) -> Iterator[Library]:
    """The emulator with its threads in another order."""
    emulated("set_seed", request.param)
    yield emulated
    emulated("set_seed", 0)


@pytest.fixture(scope="session")
def on_gpu() -> Library:
    return Library(build_cuda())


@pytest.fixture(params=BACKENDS)
def kernels(request: pytest.FixtureRequest) -> Library:
    """The test kernels on the emulator and on the GPU."""
    return request.getfixturevalue("emulated" if request.param == "emulator" else "on_gpu")


@pytest.fixture(params=BACKENDS)
def kernels_sm90(request: pytest.FixtureRequest) -> Library:
    """The same, on GPUs of compute capability 9.0."""
    if request.param == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the GPU is not of compute capability 9.0")
    return request.getfixturevalue("emulated" if request.param == "emulator" else "on_gpu")

"""Compile every Triton kernel for chips that are not here, and look at what came out.

    python tools/gate_triton.py [OP ...] [--arch 90] [--match TEXT]

Each megafm/ops/triton/OP.py with a `compile_cases()` (megafm/ops/triton/cases.py) is compiled for
each chip. A kernel fails the gate if it spills registers, needs more shared or tensor memory than
the chip has, or lacks the matrix instructions that its case wants. Triton's cache under build/
makes a second run quick: it goes by kernel source, options and compiler.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "megafm" / "ops" / "triton"
COLUMNS = ("kernel", "case", "chip", "blocks", "warps", "stages", "regs", "spill", "smem", "mma")


@dataclass(frozen=True)
class Chip:
    """What a chip allows one block: bytes of shared memory, columns of tensor memory.

    `matrix` is how its matrix instruction begins in SASS: HMMA is mma.sync, HGMMA is wgmma and
    UTC..MMA is tcgen05.mma.
    """

    shared: int
    matrix: str
    tensor_columns: int = 0


CHIPS = {
    80: Chip(163 * 1024, "HMMA"),
    90: Chip(227 * 1024, "HGMMA"),
    100: Chip(227 * 1024, "UTC[A-Z]*MMA", 512),
}


@dataclass(frozen=True)
class Found:
    """One compiled kernel: what it is, and what it takes."""

    kernel: str
    case: str
    arch: int
    blocks: str
    num_warps: int
    num_stages: int
    registers: int
    spilled: int  # bytes a thread
    shared: int  # bytes a block
    tensor_columns: int
    matrix: tuple[str, ...]  # the matrix instructions in it
    wants_matrix: bool


def violations(found: Found) -> Iterator[str]:
    chip = CHIPS[found.arch]
    if found.spilled:
        yield f"spills {found.spilled} bytes a thread; set smaller blocks or more warps"
    if found.shared > chip.shared:
        yield f"needs {found.shared} bytes of shared memory of {chip.shared}; set fewer stages"
    if found.tensor_columns > chip.tensor_columns:
        yield f"needs {found.tensor_columns} columns of tensor memory of {chip.tensor_columns}"
    if found.wants_matrix and not any(re.match(chip.matrix, name) for name in found.matrix):
        yield f"has no {chip.matrix} instruction, only {', '.join(found.matrix) or 'none'}"


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def run_tool(name: str, *arguments: str) -> str:
    command = [tool(name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def compiling_for(arch: int) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Compile for `arch` what is launched in the block, list it with its constants, run nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    class NoDevice:
        """As much of a Triton driver as compiling asks for; caches are kept by device number."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

        def get_current_device(self) -> int:
            return arch

        def get_current_stream(self, device: int) -> int:
            return 0

    compiled: list[tuple[Any, dict[str, Any]]] = []
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((kernel, kwargs))
        return kernel

    driver.set_active(NoDevice())
    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = launch


def inspect(kernel: Any, constants: dict[str, Any], case: Any, arch: int) -> Found:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = run_tool("nvdisasm", "-c", file.name)
    taken = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    metadata = kernel.metadata
    blocks = "x".join(str(v) for k, v in constants.items() if re.match("BLOCK(?!.*DIM)", k))
    return Found(
        kernel=metadata.name,
        case=case.name,
        arch=arch,
        blocks=blocks,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        registers=taken["REG"],
        spilled=taken["STACK"] + taken["LOCAL"],
        shared=metadata.shared,
        tensor_columns=getattr(metadata, "tmem_size", None) or 0,
        matrix=tuple(sorted(set(re.findall(r"\b((?:UTC[A-Z]*|HG?|IG?|Q|D)MMA)\b", sass)))),
        wants_matrix=metadata.name in case.matrix,
    )


@functools.cache
def cases_of(module: str) -> list[Any]:
    name = module if "." in module else f"megafm.ops.triton.{module}"
    loaded = importlib.import_module(name)
    return list(loaded.compile_cases()) if hasattr(loaded, "compile_cases") else []


def gate_case(job: tuple[str, int, int]) -> list[Found]:
    module, index, arch = job
    case = cases_of(module)[index]
    with compiling_for(arch) as compiled:
        case.launch(*case.arguments)
    if not compiled:
        raise RuntimeError(f"{module}: case {case.name} launched no kernel")
    return [inspect(kernel, constants, case, arch) for kernel, constants in compiled]


def modules_with_cases() -> list[str]:
    found = [path.stem for path in sorted(KERNELS.glob("*.py")) if path.stem != "__init__"]
    return [module for module in found if cases_of(module)]


def table(rows: list[Found]) -> str:
    cells = [COLUMNS] + [
        (
            *(row.kernel, row.case, f"sm_{row.arch}", row.blocks),
            *map(str, (row.num_warps, row.num_stages, row.registers, row.spilled, row.shared)),
            " ".join(row.matrix) or "-",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def prepare_environment() -> None:
    """For this process and its workers, before triton is imported: compile, and keep the result."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(ROOT / "build" / "triton")
    os.environ["TRITON_STORE_BINARY_ONLY"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(ROOT))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", help="as in megafm/ops/triton, or a module; none: all")
    parser.add_argument("--arch", type=int, action="append", choices=CHIPS, help="80, 90 or 100")
    parser.add_argument("--match", default="", help="only cases whose name holds this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    prepare_environment()
    jobs = [
        (module, index, arch)
        for module in arguments.ops or modules_with_cases()
        for index, case in enumerate(cases_of(module))
        for arch in arguments.arch or CHIPS
        if arguments.match in case.name
    ]
    if not jobs:
        sys.exit("gate_triton: error: no case matches; leave out --match and OP for all")
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        found = [row for rows in pool.imap(gate_case, jobs, chunksize=1) for row in rows]
    print(table(found), flush=True)
    failures = [
        f"{row.kernel} ({row.case}, sm_{row.arch}, blocks {row.blocks}) {violation}"
        for row in found
        for violation in violations(row)
    ]
    print("\n".join(f"gate_triton: error: {line}" for line in failures))
    print(f"gate_triton: {len(found)} kernels, {len(failures)} violations")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

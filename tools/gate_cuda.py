"""Compile every CUDA kernel for chips that are not here, and look at what came out.

    python tools/gate_cuda.py [NAME ...] [--arch 90a]

Each csrc/cuda/NAME.cu is compiled for each chip. What its kernels may take and must contain stands
in comments of the file; every kernel needs a line:

    // gate norm_forward<*>: registers 64, shared 1024     of a thread, bytes of a block, at most
    // gate norm_forward<*, 8>: LDG.E.128 STG.E.128        beginnings of SASS instructions
    // gate chips: 90a                                     of the whole file; without it: all

What the emulator is tested on (tests/csrc/emulator/*_cases.cu) is compiled too, for the chips that
have it: the same source has to be CUDA.

Registers are exact where setmaxnreg hands them on. A kernel also fails if it spills registers,
keeps an array in local memory, or makes ptxas warn (as it does of serialized wgmma). Objects are
kept under build/ and go by command, source and headers.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import compile_cuda
import compile_ops

KERNELS = compile_ops.ROOT / "csrc" / "cuda"
CASES = compile_ops.ROOT / "tests" / "csrc" / "emulator"
FOLDER = compile_ops.ROOT / "build" / "gate-cuda"
CHIPS = ("80", "90a", "100a", "120a")
SLOWER = re.compile("warning|performance loss", re.IGNORECASE)  # an "info" of serialized wgmma
COLUMNS = ("file", "kernels", "chip", "number", "registers", "shared", "contains")


@dataclass(frozen=True)
class Rule:
    """What kernels whose name matches `pattern` may take and must contain."""

    pattern: str
    registers: int | None
    shared: int | None
    contains: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One compiled kernel."""

    name: str  # such as norm_forward<float, float, 4>
    chip: str
    registers: int
    shared: int  # bytes of a block, without dynamic ones
    local: int  # bytes of a thread: stack and spills
    instructions: frozenset[str]


def rules_of(source: str) -> list[Rule]:
    rules = []
    for pattern, text in re.findall(r"^// gate (?!chips:)(.+?): (.+)$", source, re.M):
        limits = {key: int(value) for key, value in re.findall(r"(registers|shared) (\d+)", text)}
        contains = re.sub(r"(registers|shared) \d+|,", " ", text).split()
        rules.append(Rule(pattern, limits.get("registers"), limits.get("shared"), tuple(contains)))
    return rules


def chips_of(source: str) -> tuple[str, ...]:
    found = re.search(r"^// gate chips: (.+)$", source, re.M)
    return tuple(found.group(1).split()) if found else CHIPS


def violations(found: Found, rules: list[Rule]) -> Iterator[str]:
    own = [rule for rule in rules if fnmatch.fnmatchcase(found.name, rule.pattern)]
    if not own:
        yield f"has no rule; add a line // gate {found.name.partition('<')[0]}<*>: registers N"
    if found.local:
        yield f"keeps {found.local} bytes a thread in local memory; hold less, or launch fewer"
    for rule in own:
        if rule.registers is not None and found.registers > rule.registers:
            yield f"takes {found.registers} registers of {rule.registers}"
        elif rule.registers is not None and found.registers < rule.registers and hands_on(found):
            yield f"hands on {rule.registers} registers, and starts with {found.registers}"
        if rule.shared is not None and found.shared > rule.shared:
            yield f"takes {found.shared} bytes of shared memory of {rule.shared}"
        for wanted in rule.contains:
            if not any(name.startswith(wanted) for name in found.instructions):
                yield f"has no {wanted} instruction"


def hands_on(found: Found) -> bool:
    """Whether warps give registers to others; a block that starts with too few of them hangs."""
    return any(name.startswith("USETMAXREG") for name in found.instructions)


def compile_all(names: list[str], chips: list[str]) -> Iterator[tuple[Path, str, Path, str]]:
    """(source, chip, object, what ptxas said) of each file and chip."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    jobs = []
    for path in sorted(KERNELS.glob("*.cu")):
        for chip in chips_of(path.read_text(encoding="utf-8")):
            if (not names or path.stem in names) and chip in chips:
                codes = [f"-gencode=arch=compute_{chip},code=sm_{chip}", "-Xptxas=-v"]
                unit = compile_ops.cuda_unit(path, FOLDER / f"{path.stem}.{chip}.o", codes)
                jobs.append((path, chip, unit))
    units = [unit for _, _, unit in jobs] + (case_units(chips) if not names else [])
    compile_ops.compile_units(units, compile_cuda.num_jobs())
    for path, chip, unit in jobs:
        yield path, chip, unit.obj, unit.log.read_text(encoding="utf-8")


def case_units(chips: list[str]) -> list[compile_ops.Unit]:
    """The emulator's conformance cases, each for the oldest chip that has its instructions."""
    units = []
    for path in sorted(CASES.glob("*_cases.cu")):
        chip = "90a" if re.search("sm90|wgmma", path.stem) else "80"
        if chip in chips:
            codes = [f"-gencode=arch=compute_{chip},code=sm_{chip}", "-I", str(CASES)]
            units.append(compile_ops.cuda_unit(path, FOLDER / f"{path.stem}.{chip}.o", codes))
    return units


def inspect(chip: str, obj: Path, log: str) -> list[Found]:
    """The kernels of an object, by what ptxas said of them and their SASS."""
    sass = instructions(obj)
    found = []
    for part in log.split("Compiling entry function '")[1:]:
        symbol = part.partition("'")[0]
        taken = dict.fromkeys(("registers", "bytes smem", "bytes stack"), 0)
        taken |= {
            key: int(value) for value, key in re.findall(r"(\d+) (registers|bytes \w+)", part)
        }
        local = taken["bytes stack"] + taken.get("bytes spill", 0)
        name = short_name(symbol)
        found.append(
            Found(name, chip, taken["registers"], taken["bytes smem"], local, sass[symbol])
        )
    return found


def instructions(obj: Path) -> dict[str, frozenset[str]]:
    """Of each kernel in the object, by its symbol: names such as LDG.E.128."""
    run = subprocess.run([tool("cuobjdump"), "-sass", obj], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"gate_cuda: error: cuobjdump {obj}: {run.stderr.strip()}")
    kernels = {}
    for part in run.stdout.split("Function : ")[1:]:
        symbol, _, body = part.partition("\n")
        names = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", body, re.M)
        kernels[symbol.strip()] = frozenset(names)
    return kernels


def tool(name: str) -> str:
    """cuobjdump of the triton wheel, which calls its nvdisasm; the toolkit may lack both."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        sys.exit("gate_cuda: error: no cuobjdump; pip install 'megafm[triton]'")
    return str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name)


def short_name(symbol: str) -> str:
    """norm_forward<float, 4> of the mangled megafm::cuda::norm_forward<float, 4>(...)."""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype = ctypes.c_char_p
    whole = (demangle(symbol.encode(), None, None, None) or symbol.encode()).decode()
    whole = re.sub(r"\(anonymous namespace\)::|\b\w+::", "", whole.removeprefix("void "))
    depth = 0
    for at, letter in enumerate(whole):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return whole[:at]
    return whole


def table(rows: list[tuple[str, Rule, str, list[Found]]]) -> str:
    cells = [COLUMNS]
    for file, rule, chip, kernels in rows:
        most = [max(found.registers for found in kernels), max(found.shared for found in kernels)]
        numbers = [str(len(kernels)), *map(str, most)]
        cells.append((file, rule.pattern, f"sm_{chip}", *numbers, " ".join(rule.contains) or "-"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="files of csrc/cuda without .cu; none: all")
    parser.add_argument("--arch", action="append", choices=CHIPS, help="80, 90a, 100a or 120a")
    options = parser.parse_args()
    if compile_cuda.toolkit() is None:
        print("gate_cuda: skipped: no nvcc on the PATH; install the CUDA toolkit (or set NVCC)")
        return
    rows, failures, number = [], [], 0
    try:
        compiled = list(compile_all(options.names, options.arch or list(CHIPS)))
    except compile_ops.BuildError as error:
        sys.exit(f"gate_cuda: error: {error}")
    for path, chip, obj, log in compiled:
        rules = rules_of(path.read_text(encoding="utf-8"))
        kernels = inspect(chip, obj, log)
        number += len(kernels)
        warned = [line for line in log.splitlines() if SLOWER.search(line)]
        failures += [f"{path.name} (sm_{chip}): {line.strip()}" for line in warned]
        for rule in rules:
            own = [found for found in kernels if fnmatch.fnmatchcase(found.name, rule.pattern)]
            if own:
                rows.append((path.name, rule, chip, own))
            else:
                failures.append(f"{path.name} (sm_{chip}): no kernel matches {rule.pattern}")
        for found in kernels:
            said = violations(found, rules)
            failures += [f"{path.name} {found.name} (sm_{chip}) {line}" for line in said]
    print(table(rows))
    print("\n".join(f"gate_cuda: error: {line}" for line in failures))
    print(f"gate_cuda: {number} kernels, {len(failures)} violations")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

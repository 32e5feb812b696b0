"""`megafm doctor`: what this machine can run, why not the rest, and what to do about it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import megafm
from megafm import device, ops
from megafm.config import job
from megafm.data import index
from megafm.ops import _library, registry
from megafm.ops.adapters.apex import FIX as INSTALL_APEX

State = Literal["ok", "missing", "wrong"]

STYLE = {"ok": "green", "missing": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class DoctorJob:
    what: str = "what this machine can run, and why not the rest"
    format: Literal["table", "json"] = "table"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: "missing" leaves something out, "wrong" will break something.
        detail: what was found, in one line.
        fix: what to run, where something can be done about it.
    """

    name: str
    state: State
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class Report:
    findings: list[Finding]
    ops: dict[str, ops.OpBackends] = field(default_factory=dict)


@job("doctor")
def main(config: DoctorJob) -> None:
    report = examine()
    if config.format == "json":
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        show(report, Console())


def examine() -> Report:
    """Look at everything; imports no optional package."""
    findings = [
        Finding("megafm", "ok", f"{megafm.__version__} in {Path(megafm.__file__).parent}"),
        python(),
        pytorch(),
        cpu(),
        cuda(),
        distributed(),
        compiler(),
        cuda_compiler(),
        extension(),
        index_module(),
        optional("triton", "triton", "megafm[triton]"),
        optional("transformer-engine", "transformer_engine", "megafm[te]"),
        apex(),
    ]
    return Report(findings, ops.backends())


def python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def pytorch() -> Finding:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return Finding("torch", "ok", f"{torch.__version__} ({build})")


def cpu() -> Finding:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    level = torch.backends.cpu.get_cpu_capability()
    here = torch.device("cpu")
    bf16 = "fast bf16 matmul" if device.has_bf16_matmul(here) else "no bf16 matmul unit, so fp32"
    detail = f"{device.device_name(here)}, {memory:.0f} GiB, torch uses {level}, {bf16}"
    return Finding("CPU", "ok", detail)


def cuda() -> Finding:
    if torch.version.cuda is None and torch.version.hip is None:
        fix = "pip install torch from a CUDA index (make setup TORCH_INDEX=...)"
        return Finding("CUDA", "missing", "this torch is a CPU build", fix if _has_gpu() else None)
    if not torch.cuda.is_available():
        fix = "install the NVIDIA driver; nvidia-smi must list a device"
        return Finding("CUDA", "missing", "torch sees no CUDA device", fix)
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    devices = [f"{p.name} (sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB)" for p in found]
    return Finding("CUDA", "ok", f"{torch.version.cuda}: {', '.join(devices)}")


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def distributed() -> Finding:
    if not dist.is_available():
        return Finding("distributed", "wrong", "this torch has no torch.distributed")
    nccl = "no NCCL (this torch is a CPU build)"
    if dist.is_nccl_available():
        nccl = "NCCL " + ".".join(map(str, torch.cuda.nccl.version()))
    gloo = "gloo" if dist.is_gloo_available() else "no gloo"
    return Finding("distributed", "ok", f"{gloo}, {nccl}")


def compiler() -> Finding:
    wanted = os.environ.get("CXX", "").split()[:1]
    name = next(filter(shutil.which, wanted or ["g++", "clang++", "c++"]), None)
    if name is None:
        fix = "unset CXX" if wanted else "apt-get install g++ && make setup"
        found = f"CXX={wanted[0]} is no executable" if wanted else "none found"
        detail = f"{found}, needed to build the extension"
        return Finding("C++ compiler", "missing", detail, fix)
    return Finding("C++ compiler", "ok", _first_line(name, "--version"))


def cuda_compiler() -> Finding:
    if shutil.which("nvcc") is None:
        return Finding("nvcc", "missing", "not on the PATH; only CUDA kernels need it")
    return Finding("nvcc", "ok", _last_line("nvcc", "--version"))


def extension() -> Finding:
    reason = _library.library_missing()
    if reason is not None:
        return Finding("extension", "missing", reason, _library.FIX)
    used, available = _library.instruction_sets()
    detail = f"{_library.library_path()}: CPU kernels on {used} (here: {', '.join(available)})"
    if _library.is_stale():
        return Finding("extension", "wrong", f"{detail}, older than csrc/", _library.FIX)
    cuda = "CUDA kernels" if _library.has_cuda_kernels() else "no CUDA kernels"
    return Finding("extension", "ok", f"{detail}; {cuda}")


def index_module() -> Finding:
    reason = index.missing()
    if reason is not None:
        return Finding("index module", "missing", f"{reason}; data runs in Python", index.FIX)
    return Finding("index module", "ok", f"{index.native().__file__}: MinHash, packing, blends")


def optional(name: str, module: str, requirement: str) -> Finding:
    """A package that only matters with a CUDA device, judged without importing it."""
    if _package(module) is not None:
        # Other builds have other names, such as pytorch-triton-rocm.
        sources = importlib.metadata.packages_distributions().get(module, [])
        versions = [f"{source} {importlib.metadata.version(source)}" for source in sources]
        return Finding(name, "ok", ", ".join(versions) or "of unknown version")
    fix = f"pip install '{requirement}'" if torch.cuda.is_available() else None
    return Finding(name, "missing", "not installed" if fix else "not installed; for GPUs", fix)


def apex() -> Finding:
    """NVIDIA's apex is not on PyPI; the `apex` there is another project of that name."""
    spec = _package("apex")
    if spec is None:
        fix = INSTALL_APEX if torch.cuda.is_available() else None
        return Finding("apex", "missing", "not installed; for GPUs, and not on PyPI", fix)
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if any((folder / "multi_tensor_apply").is_dir() for folder in folders):
        return Finding("apex", "ok", f"NVIDIA's, in {folders[0]}")
    where = folders[0] if folders else spec.origin
    detail = f"{where} is not NVIDIA's apex but the unrelated package of that name on PyPI"
    return Finding("apex", "wrong", detail, f"pip uninstall -y apex && {INSTALL_APEX}")


def _package(module: str) -> ModuleSpec | None:
    """Where an import would find `module`; a mere folder of that name is no package."""
    spec = importlib.util.find_spec(module)
    return None if spec is None or spec.origin is None else spec


def _first_line(*command: str) -> str:
    return _output(command)[0]


def _last_line(*command: str) -> str:
    return _output(command)[-1]


def _output(command: tuple[str, ...]) -> list[str]:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{command[0]} does not run: {error}"]
    return run.stdout.strip().splitlines() or [f"{command[0]} says nothing"]


def show(report: Report, console: Console) -> None:
    machine = Table(title="this machine", title_justify="left")
    for column in ("", "state", "found"):
        machine.add_column(column)
    for finding in report.findings:
        todo = f"\nrun: {finding.fix}" if finding.fix else ""
        style = STYLE[finding.state]
        machine.add_row(finding.name, f"[{style}]{finding.state}[/]", escape(finding.detail + todo))
    console.print(machine)

    table = Table(title="ops: the backend that auto picks, and all that can run here")
    table.title_justify = "left"
    devices = list(next(iter(report.ops.values())).pick) if report.ops else []
    for column in ("op", *(f"auto on {name}" for name in devices), "can run"):
        table.add_column(column)
    for name, found in report.ops.items():
        able = [backend for backend in registry.BACKENDS if found.why_not[backend] is None]
        picked = (_picked(pick) for pick in found.pick.values())
        table.add_row(name, *picked, escape(", ".join(able)))
    console.print(table)
    for line in _notes(report.ops):
        console.print(escape(line), highlight=False)


def _picked(pick: dict[str, str]) -> str:
    """E.g. "onednn: float32 large; else reference"; the backend alone where it serves all."""
    usual = max(pick.values(), key=list(pick.values()).count)
    special: dict[str, list[str]] = {}
    for label, backend in pick.items():
        if backend != usual:
            special.setdefault(backend, []).append(label)
    said = [f"{backend}: {', '.join(labels)}; else " for backend, labels in special.items()]
    return f"[{STYLE['ok']}]{escape(''.join(said) + usual)}[/]"


def _notes(table: dict[str, ops.OpBackends]) -> Iterator[str]:
    """Why backends that megafm has cannot run here, each reason once."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for name, found in table.items():
        for backend, reason in found.why_not.items():
            if reason is not None and backend not in found.absent:
                fix = f"; run: {found.fix[backend]}" if backend in found.fix else ""
                reasons.setdefault((backend, reason, fix), []).append(name)
    for (backend, reason, fix), names in reasons.items():
        yield f"not on {backend}: {', '.join(names)}: {reason}{fix}"
    yield "choose with ops.OP=BACKEND, or MEGAFM_OPS=OP=BACKEND,..."


if __name__ == "__main__":
    main()

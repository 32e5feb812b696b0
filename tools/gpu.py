"""What `make gpu` does: build, test and measure on the GPU of this machine, in at most 8 minutes.

    python tools/gpu.py [PART ...] [--out FOLDER]     all parts, or those named
    python tools/gpu.py --rehearse                    the same on a CPU at tiny sizes

Every part is a process with a budget: what it leaves goes to the parts after it, what it would take
beyond ends it with all that it started, and the others still run. Results go to
benchmarks/results/GPU/: a JSON per part, pictures, `parts.json`, which is written after every part,
and `summary.md` of it all. A run that is ended early ends its part too and leaves the rest.

Needs no network. A Python package that is missing is taken from the wheels that `make bundle` left
in build/bundle, without touching the Python here. Where there is no git, MEGAFM_COMMIT is the
commit. Standard library only, and any Python 3.11 that has torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import bundle

ROOT = Path(__file__).resolve().parent.parent
REHEARSAL = ROOT / "build" / "gpu-rehearsal"
PROBE = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
NUM_LAST_LINES = 15
LIMIT = 8 * 60  # seconds of it all
SUMMARY = 10  # of these, for the summary
PROBING = 60  # for torch to say what GPU is here
KILLING = 5  # for what was killed to be gone: a driver that hangs keeps it
# Suites that run on the GPU where there is one; the first also holds the CUDA kernels to float64.
TESTS = ["tests/ops/cuda", "tests/ops/triton", "tests/csrc/emulator"]
ON_CPU = ["--ignore=tests/ops/triton/test_gate.py", "--ignore=tests/ops/triton/test_interpreter.py"]
# Seconds of each op's benchmark; all parts together leave those of the summary.
OPS = {
    "rms_norm": 20,
    "rope": 15,
    "swiglu": 15,
    "cross_entropy": 20,
    "linear_cross_entropy": 20,
    "adamw": 20,
    "attention": 75,  # the last one takes what the others left
}
STEPS = {"megafm": 25, "megafm cuda": 25, "plain compiled": 45}
REHEARSED_STEPS = {"megafm": 25, "megafm reference": 25, "plain": 55}


@dataclass(frozen=True)
class Part:
    """A process, and the seconds that are kept for it."""

    name: str
    budget: int
    command: list[str]


@dataclass
class Outcome:
    """What became of a part: "ok", "failed" or "out of time", and what it said last."""

    name: str
    status: str
    seconds: float
    limit: float
    command: str
    last_lines: list[str]


def parts(out: Path, rehearse: bool) -> list[Part]:
    python, fast = sys.executable, ["device=cpu", "quick"]
    build = [python, "tools/compile_ops.py", "--only", "ops"]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ON_CPU]
    if not rehearse:
        pytest += ["-n", "8", "--dist", "loadfile"]
    tests = ["tests/ops/test_swiglu.py"] if rehearse else TESTS
    device = "cpu" if rehearse else "cuda"
    common = [f"device={device}", f"out={out}", "seconds=0.4"]
    common += ["quick=true", "threads=[1]"] if rehearse else []
    found = [Part("build", 120, build), Part("tests", 70, [*pytest, *tests])]
    for name, budget in (REHEARSED_STEPS if rehearse else STEPS).items():
        path = out / f"step_{name.replace(' ', '_')}.json"
        step = [python, "-m", "benchmarks.gpu.step", name, str(path)]
        found.append(Part(f"step {name}", budget, [*step, *(fast if rehearse else [])]))
    for op, budget in OPS.items():
        dtype = "fp32" if op == "adamw" or rehearse else "bf16"
        bench = [python, "-m", "megafm.bench", "suite=ops", f"only=[{op}]", f"dtypes=[{dtype}]"]
        found.append(Part(op, budget, [*bench, *common]))
    return found


def run_all(
    todo: list[Part],
    environment: dict[str, str],
    ends: float,
    write: Callable[[list[Outcome]], None],
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run one after the other, all before `ends` (of time.monotonic()).

    Each may take its own budget and what those before it left. `write` is given the outcomes so far
    after each.
    """
    outcomes: list[Outcome] = []
    for index, part in enumerate(todo):
        kept = sum(later.budget for later in todo[index + 1 :])
        outcome = run(part, ends - kept - time.monotonic(), environment)
        outcomes.append(outcome)
        write(outcomes)
        say(f"{part.name}: {outcome.status} in {outcome.seconds:.0f} of {outcome.limit:.0f} s")
        if outcome.status != "ok":
            say("\n".join(f"    {line}" for line in outcome.last_lines))
    return outcomes


def run(part: Part, limit: float, environment: dict[str, str]) -> Outcome:
    """Run a part in a session of its own, which is ended as a whole, at its limit at the latest."""
    began = time.monotonic()
    # A file, not a pipe: nobody has to read it to its end, which a child in a session of its own
    # would hold open.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "ok" if process.wait(timeout=max(limit, 1)) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(process)
        output.seek(0)
        lines = output.read().strip().splitlines()[-NUM_LAST_LINES:]
    seconds = round(time.monotonic() - began, 1)
    return Outcome(part.name, status, seconds, round(limit), " ".join(part.command), lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of its session: what runs on would disturb what is measured next."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=KILLING)


def environment_of(packages: Path | None) -> dict[str, str]:
    """This process's, with the checkout and the packages of the bundle to import from."""
    folders = [str(ROOT), *([] if packages is None else [str(packages)])]
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *([known] if known else [])])}


def gpu_name() -> str:
    """The GPU that torch sees, or "" without one."""
    command = [sys.executable, "-c", PROBE]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=PROBING)
    except subprocess.TimeoutExpired:
        sys.exit(
            f"gpu: error: torch does not answer what GPU is here in {PROBING} s; reset the GPU"
        )
    return probe.stdout.strip()


def main() -> None:
    ends = time.monotonic() + LIMIT
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu: error: ended by a signal"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts to run, such as build attention; none: all")
    parser.add_argument("--out", help="folder of the results")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes")
    options = parser.parse_args()
    name = "" if options.rehearse else gpu_name()
    if not name and not options.rehearse:
        sys.exit(
            "gpu: error: torch sees no CUDA device here; run it where there is a GPU, or try "
            "tools/gpu.py --rehearse"
        )
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    default = REHEARSAL if options.rehearse else ROOT / "benchmarks" / "results" / slug
    out = Path(options.out).resolve() if options.out else default
    todo = parts(out, options.rehearse)
    unknown = set(options.names) - {part.name for part in todo}
    if unknown:
        known = ", ".join(part.name for part in todo)
        sys.exit(f"gpu: error: no part {unknown.pop()}; name some of {known}")
    out.mkdir(parents=True, exist_ok=True)
    try:
        packages = bundle.install_missing()
    except bundle.BundleError as error:
        sys.exit(f"gpu: error: {error}")

    def write(outcomes: list[Outcome]) -> None:
        record = {"gpu": name, "parts": [asdict(outcome) for outcome in outcomes]}
        (out / "parts.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    environment = environment_of(packages)
    chosen = [part for part in todo if not options.names or part.name in options.names]
    outcomes = run_all(chosen, environment, ends - SUMMARY, write)
    failed = [outcome.name for outcome in outcomes if outcome.status != "ok"]
    summary = [sys.executable, "-m", "benchmarks.gpu.summary", str(out)]
    told = run(Part("summary", SUMMARY, summary), ends - time.monotonic(), environment)
    if told.status == "ok":
        print((out / "summary.md").read_text(encoding="utf-8"))
    else:
        print("\n".join([f"summary: {told.status}", *told.last_lines]))
        failed.append("summary")
    print(f"gpu: results in {out}")
    if failed:
        sys.exit(f"gpu: error: {', '.join(failed)} did not end well (above); the rest was measured")


if __name__ == "__main__":
    main()

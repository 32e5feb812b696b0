"""`megafm bench`: speed against other libraries, side by side in one run; needs a checkout."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megafm.config import job

CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class BenchJob:
    """
    Attributes:
        suite: ops (one op at a time) or train (whole training steps, end to end).
        only: ops of suite=ops, providers of suite=train; empty is all.
        providers: of suite=ops, parts of names such as "megafm" or "compiled"; empty is all.
        threads: CPU threads to measure at; ignored on a GPU.
        dtypes: fp32, bf16.
        clock: wall, or cpu: the process's own time, for one thread on a machine that others use.
        quick: one tiny shape and few rounds: does it run at all?
        seconds: to spend on each case (op, shape, dtype, threads, forward or with backward).
        out: folder of the results; None is benchmarks/results/SUITE of the checkout.
    """

    what: str = "speed of the ops, or of whole training steps, against other libraries"
    suite: Literal["ops", "train"] = "ops"
    only: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    device: str = "auto"
    threads: tuple[int, ...] = (1, 2)
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    clock: Literal["wall", "cpu"] = "wall"
    quick: bool = False
    seconds: float = 3.0
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.threads or min(self.threads) < 1:
            raise ValueError(f"threads={list(self.threads)}: set at least 1, such as [1,2]")
        if not self.dtypes:
            raise ValueError("dtypes=[]: nothing to measure; set [fp32,bf16]")
        if self.clock == "cpu" and (self.threads != (1,) or self.device == "cuda"):
            raise ValueError("clock=cpu: adds up all threads; set threads=[1] and device=cpu")
        if self.seconds <= 0:
            raise ValueError(f"seconds={self.seconds}: must be above 0")


@job("bench")
def main(config: BenchJob) -> None:
    import_suite(config.suite).run(config)


def import_suite(name: str, checkout: Path = CHECKOUT):
    """The module `benchmarks.NAME.run`.

    Raises:
        ValueError: megafm is installed without its sources.
    """
    if not (checkout / "benchmarks" / name).is_dir():
        raise ValueError(
            f"suite={name}: benchmarks/ is not in the installed package; clone the repository "
            f"and run `make setup && .venv/bin/megafm bench suite={name}` there"
        )
    sys.path.insert(0, str(checkout))
    return importlib.import_module(f"benchmarks.{name}.run")


def choose(asked: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """`asked`, or all that are known where it is empty; ValueError for an unknown one."""
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"set some of {', '.join(known)}"
            raise ValueError(f"only=[{name}]: {hint}")
    return asked or known


if __name__ == "__main__":
    main()

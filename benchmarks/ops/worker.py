"""The measuring process: checks the providers of a case, then times them one round at a time."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Mapping

import torch
import torch._functorch.config

from benchmarks import worker
from benchmarks.ops import load
from benchmarks.ops.op import DTYPES, Inputs, Op, Run
from benchmarks.ops.providers import Provider, providers
from benchmarks.ops.timing import ceilings, timer

TOLERANCE = {"fp32": 1e-3, "bf16": 4e-2}  # of the largest value; a wrong formula is far outside
SAMPLE_SECONDS = 2e-3  # what is shorter is run several times per sample
# After a round, OpenMP's threads wait on their cores for more work, for milliseconds. Others
# who measured there at once would find twice the time of a run of 1 ms on two threads.
CALM_SECONDS = 0.02


class Bench:
    """One device, one number of threads; holds the case it was last told to prepare."""

    def __init__(self) -> None:
        self.device = torch.device(os.environ["BENCH_DEVICE"])
        if self.device.type == "cpu":
            torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
        # A graph whose backward is timed alone is gone through again and again.
        torch._functorch.config.donated_buffer = False
        self.seconds = timer(self.device)
        self.random = random.Random(0)
        self.ready: dict[str, tuple[Provider, Mapping[str, Run]]] = {}
        self.repeats: dict[tuple[str, str], int] = {}

    def ceilings(self, dtype: str) -> dict[str, float]:
        return ceilings(self.device, DTYPES[dtype])

    def prepare(
        self, op: str, shape: str, dtype: str, quick: bool, wanted: list[str], check: bool
    ) -> dict[str, dict[str, str | None]]:
        """Bind every provider to the inputs of a case, and run each once in every mode.

        Returns:
            provider -> its kind, and its error: None if it can be timed, else why it is wrong
            or what it raised.
        """
        definition = load(op)
        sizes = definition.shapes_on(self.device, quick)[shape]
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # it gives up on a function that has seen many shapes
        self.ready, self.repeats = {}, {}
        inputs = definition.inputs(sizes, DTYPES[dtype], self.device)
        modes = definition.modes_of(shape, self.device)
        truth = self._truth(definition, inputs, modes[-1]) if check else None
        states: dict[str, dict[str, str | None]] = {}
        for provider in providers(definition, self.device, wanted):
            error = None
            try:
                with provider.context():
                    runs = definition.runs(provider.function, inputs)
                    *_, result = (runs[mode]() for mode in modes)
                if truth is not None:
                    error = difference(result, truth, TOLERANCE[dtype])
            except Exception as caught:  # whatever a library raises: the others go on
                error = f"{type(caught).__name__}: {str(caught).partition(chr(10))[0]}"
            if error is None:
                self.ready[provider.name] = (provider, runs)
            states[provider.name] = {"kind": provider.kind, "error": error}
        return states

    def _truth(self, op: Op, inputs: Inputs, mode: str) -> list[torch.Tensor]:
        return list(op.runs(op.exact, inputs.doubled())[mode]())

    def round(self, mode: str, names: list[str]) -> dict[str, float]:
        """Seconds of one run of each named provider, taken in random order."""
        time.sleep(CALM_SECONDS)
        order = self.random.sample(names, len(names))
        return {name: self._sample(name, mode) for name in order if name in self.ready}

    def _sample(self, name: str, mode: str) -> float:
        provider, runs = self.ready[name]
        with provider.context():
            if (name, mode) not in self.repeats:
                first = self.seconds(runs[mode], 1)
                self.repeats[name, mode] = max(1, math.ceil(SAMPLE_SECONDS / first))
            return self.seconds(runs[mode], self.repeats[name, mode])


def difference(
    results: tuple[torch.Tensor, ...], truth: list[torch.Tensor], tolerance: float
) -> str | None:
    """Why `results` are not the truth, in one line; None if they are, within the tolerance."""
    for index, (got, right) in enumerate(zip(results, truth, strict=True)):
        largest = right.abs().max().item()
        error = (got.double() - right).abs().max().item()
        if not error <= tolerance * largest:  # NaN is no number below
            return f"wrong: value {index} is off by {error:.2g}, of at most {largest:.2g}"
    return None


if __name__ == "__main__":
    bench = Bench()
    worker.serve({"ceilings": bench.ceilings, "prepare": bench.prepare, "round": bench.round})

"""Every step, signal and rule: documents and megabytes per second of one core, beside datatrove's.

    pip install --target DIR --no-deps datatrove==0.10.1
    pip install --target DIR spacy loguru humanize dill multiprocess nltk tldextract
    PYTHONPATH=DIR python -m benchmarks.data.steps TEXT.jsonl

TEXT.jsonl has a document a line, {"text": ...}. A rule is timed with its signal: a filter of
datatrove does both at once. Steps that want UTF-8 find it made, as after reading. Providers take
turns, and each has its median. Writes benchmarks/results/data/steps_MACHINE.json; BENCH_CLOCK=cpu
counts the process's own CPU time, for a machine that others use.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.texts import identity, read_texts, take_turns, throughputs
from benchmarks.machine import provenance, slug, write_result
from benchmarks.worker import CLOCK
from megafm.data.document import Document
from megafm.data.steps import registry
from megafm.data.steps.copies import RepeatedRuns, SimHash
from megafm.data.steps.pii import PII
from megafm.data.steps.pipeline import compare

Run = Callable[[], object]
NEEDS_SETTINGS = {"decontaminate_v1", "presidio_v1", "quality_v1", "importance_v1"}
# What of datatrove does the same, by ours.
PEERS = {
    "gopher_quality_v1": ("filters.gopher_quality_filter", "GopherQualityFilter"),
    "gopher_repetition_v1": ("filters.gopher_repetition_filter", "GopherRepetitionFilter"),
    "c4_lines_v1": ("filters.c4_filters", "C4QualityFilter"),
    "fineweb_v1": ("filters.fineweb_quality_filter", "FineWebQualityFilter"),
    "normalise_v1": ("formatters.ftfy", "FTFYFormatter"),
    "pii_v1 EMAIL IP": ("formatters.pii", "PIIFormatter"),
}


def ours(documents: list[Document]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for name, step in registry.STEPS.items():
        if name not in NEEDS_SETTINGS:
            of = step()
            runs[name] = lambda of=of: [of(document) for document in documents]
    for name, rule in registry.RULES.items():
        if name not in NEEDS_SETTINGS:
            of, signal = rule(), rule.signal()
            runs[name] = lambda of=of, signal=signal: [of(signal(one)) for one in documents]
    two = PII(kinds=("EMAIL", "IP"))  # what datatrove's finds
    runs["pii_v1 EMAIL IP"] = lambda: [two(document) for document in documents]
    for of in (RepeatedRuns(), SimHash()):
        runs[of.version] = lambda of=of: compare(of, documents)
    return runs


def peers(documents: list[Document]) -> tuple[dict[str, Run], dict[str, str]]:
    """What can be imported, and why the rest cannot."""
    runs: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, (module, attribute) in PEERS.items():
        try:
            kind = getattr(importlib.import_module(f"datatrove.pipeline.{module}"), attribute)
            data = importlib.import_module("datatrove.data")
            step = kind()
            of = [data.Document(text=one.text, id=one.id) for one in documents]
            runs[name] = _peer(step, of)
            runs[name]()
        except Exception as error:  # whatever a foreign import or its first call may raise
            runs.pop(name, None)
            missing[name] = f"{type(error).__name__}: {error}"
    return runs, missing


def _peer(step: Any, documents: list[Any]) -> Run:
    """A filter, or a formatter, on each document; each gets its own, for C4's changes its text."""
    if hasattr(step, "format"):
        return lambda: [step.format(document.text) for document in documents]
    kind = type(documents[0])
    return lambda: [step.filter(kind(text=d.text, id=d.id)) for d in documents]


def result(path: Path, texts: list[str], rounds: int) -> dict[str, Any]:
    documents = [Document(f"{i:08}", t, "bench", "", "CC0-1.0") for i, t in enumerate(texts)]
    other, missing = peers(documents)
    runs = ours(documents) | {f"datatrove {name}": run for name, run in other.items()}
    cases = throughputs(take_turns(runs, rounds), texts)
    return {
        **provenance(torch.device("cpu")),
        "datatrove": _version("datatrove"),
        "not_run": missing,
        "clock": os.environ.get(CLOCK, "wall"),
        "text": identity(path, texts),
        "cases": cases,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Cleaning steps, one core.")
    parser.add_argument("text", type=Path, metavar="TEXT.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = read_texts(options.text)
    found = result(options.text, texts, options.rounds)
    for case in found["cases"]:
        print(f"{case['name']:32} {case['docs_per_s']:>9,} docs/s {case['mb_per_s']:>8.1f} MB/s")
    for name, reason in found["not_run"].items():
        print(f"datatrove for {name}: {reason}")
    write_result(f"data/steps_{slug(torch.device('cpu'))}", found)


if __name__ == "__main__":
    main()

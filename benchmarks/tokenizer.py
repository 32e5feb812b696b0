"""Training and encoding of byte-level BPE: megafm, tokenizers as it is used alone, rustbpe.

    python -m benchmarks.tokenizer TEXT.jsonl

TEXT.jsonl has a document a line, {"text": ...}. All learn the same vocabulary size with the same
cut into words and encode the same texts, on all cores; providers take turns, and each has its
median. rustbpe takes part where it passes the parity gate. Writes
benchmarks/results/tokenizer/MACHINE.json; BENCH_CLOCK=cpu counts the process's own CPU time, for a
machine that others use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from benchmarks.machine import ROOT, provenance, slug
from benchmarks.worker import CLOCK, clock
from megafm.tokenizer import END_OF_DOCUMENT, Recipe, train
from megafm.tokenizer.words import words

BAR = 0.97  # of the documents per second of tokenizers: the same but for noise


def train_alone(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """As the documentation of tokenizers does it."""
    inner = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(words(Recipe())), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([cut, in_bytes])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_DOCUMENT],
        show_progress=False,
    )
    inner.train_from_iterator(iter(texts), trainer)
    return inner


def medians(providers: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for number in range(rounds + 1):
        for name, run in providers.items():
            started = clock()
            run()
            if number > 0:
                seconds[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure(texts: list[str], vocab_size: int, rounds: int) -> dict[str, Any]:
    ours, alone = train(iter(texts), vocab_size), train_alone(texts, vocab_size)
    assert ours.encode_batch(texts) == [one.ids for one in alone.encode_batch_fast(texts)]
    training: dict[str, Callable[[], object]] = {
        "megafm": lambda: train(iter(texts), vocab_size),
        "tokenizers": lambda: train_alone(texts, vocab_size),
    }
    gate = "passed"
    try:
        rust = train(iter(texts), vocab_size, Recipe(trainer="rustbpe"))
        assert rust.vocab_size == vocab_size
        training["megafm, rustbpe"] = lambda: train(
            iter(texts), vocab_size, Recipe(trainer="rustbpe")
        )
    except ValueError as error:
        gate = str(error)
    encoding: dict[str, Callable[[], object]] = {
        "megafm": lambda: ours.encode_batch(texts),
        "tokenizers": lambda: [one.ids for one in alone.encode_batch_fast(texts)],
    }
    num_bytes = sum(len(text.encode()) for text in texts)
    found: dict[str, Any] = {"rustbpe_gate": gate}
    for name, providers in (("train", training), ("encode", encoding)):
        seconds = medians(providers, rounds)
        found[name] = {
            provider: {"seconds": round(time, 4), "mb_per_s": round(num_bytes / time / 1e6, 2)}
            for provider, time in seconds.items()
        }
        ratio = seconds["tokenizers"] / seconds["megafm"]
        found[name]["bar"] = {"ratio": round(ratio, 3), "bar": BAR}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Training and encoding of byte-level BPE.")
    parser.add_argument("text", type=Path, metavar="TEXT.jsonl")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with options.text.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    found = measure(texts, options.vocab_size, options.rounds)
    print(json.dumps(found, indent=2))
    result = {
        **provenance(torch.device("cpu")),
        "peers": {name: version(name) for name in ("tokenizers", "rustbpe")},
        "clock": os.environ.get(CLOCK, "wall"),
        "vocab_size": options.vocab_size,
        "text": {
            "name": options.text.name,
            "documents": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
        },
        **found,
    }
    out = ROOT / "benchmarks" / "results" / "tokenizer" / f"{slug(torch.device('cpu'))}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()

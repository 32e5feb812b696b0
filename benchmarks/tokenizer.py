"""Training and encoding of byte-level BPE: megafm, tokenizers as it is used alone, rustbpe,
gigatoken.

    python -m benchmarks.tokenizer TEXT.jsonl

TEXT.jsonl has a document a line, {"text": ...}. All learn the same vocabulary size with the same
cut into words and encode the same texts, on all cores; providers take turns, and each has its
median. rustbpe takes part where it passes the parity gate, gigatoken with a cut that it knows
(`encode_cl100k_base`), where its bar is to be faster. Writes
benchmarks/results/tokenizer/MACHINE.json; BENCH_CLOCK=cpu counts the process's own CPU time, for a
machine that others use.
"""

from __future__ import annotations

import argparse
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

from benchmarks.data.texts import identity, num_bytes, read_texts, take_turns
from benchmarks.machine import provenance, slug, write_result
from benchmarks.worker import CLOCK
from megafm.tokenizer import END_OF_DOCUMENT, Recipe, train
from megafm.tokenizer.giga import Gigatoken
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


def encode_cold(fast: Gigatoken, texts: list[str]) -> list[list[int]]:
    fast.forget()  # the words of the turn before
    return fast.encode_batch(texts)


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
    known = train(iter(texts), vocab_size, Recipe(cut="cl100k_base"))
    fast = Gigatoken(known)
    assert fast.encode_batch(texts) == known.encode_batch(texts)
    faster: dict[str, Callable[[], object]] = {
        "megafm": lambda: encode_cold(fast, texts),
        "tokenizers": lambda: known.encode_batch(texts),
    }
    size = num_bytes(texts)
    found: dict[str, Any] = {"rustbpe_gate": gate}
    cases = {"train": training, "encode": encoding, "encode_cl100k_base": faster}
    for name, providers in cases.items():
        turns = take_turns(providers, rounds)
        seconds = {provider: statistics.median(times) for provider, times in turns.items()}
        found[name] = {
            provider: {"seconds": round(time, 4), "mb_per_s": round(size / time / 1e6, 2)}
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
    texts = read_texts(options.text)
    found = measure(texts, options.vocab_size, options.rounds)
    print(json.dumps(found, indent=2))
    result = {
        **provenance(torch.device("cpu")),
        "peers": {name: version(name) for name in ("tokenizers", "rustbpe", "gigatoken")},
        "clock": os.environ.get(CLOCK, "wall"),
        "vocab_size": options.vocab_size,
        "text": identity(options.text, texts),
        **found,
    }
    write_result(f"tokenizer/{slug(torch.device('cpu'))}", result)


if __name__ == "__main__":
    main()

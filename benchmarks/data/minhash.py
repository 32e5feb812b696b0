"""MinHash from raw text to signatures, shingling included: documents per second of one core.

    pip install rensa datasketch
    pip install --target DIR --no-deps datatrove==0.10.1
    pip install --target DIR spacy loguru humanize dill multiprocess nltk tldextract "xxhash<4"
    PYTHONPATH=DIR python -m benchmarks.data.minhash TEXT.jsonl

TEXT.jsonl has a document a line, {"text": ...}. Every provider lowercases, takes words, forms
shingles of five and computes 112 minima, on one thread; peers shingle in Python, as their users
must, and hash in bulk where they can. datatrove's own words are spaCy's; it takes part with the
words of the others too. Providers take turns, and each has its median. Writes
benchmarks/results/data/minhash_MACHINE.json; BENCH_CLOCK=cpu counts the process's own CPU time,
for a machine that others use.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasketch
import numpy as np
import rensa
import torch
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.utils.hashing import create_hash_func

from benchmarks.data.texts import identity, read_texts, take_turns, throughputs
from benchmarks.machine import provenance, slug, write_result
from benchmarks.worker import CLOCK
from megafm.data.index import missing, native
from megafm.data.near_duplicates import permutations

NUM_MINIMA = 112  # 14 bands of 8 rows
WIDTH = 5
WORD = re.compile(r"\w+")
BAR = 3.0


def megafm(texts: list[str]) -> object:
    encoded = [text.encode() for text in texts]
    a, b = permutations(NUM_MINIMA)
    return native().minhash(encoded, a, b, "words", WIDTH, True, 1)


def shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[i : i + WIDTH]) for i in range(max(1, len(words) - WIDTH + 1))]


def rensa_bulk(texts: list[str]) -> object:
    token_sets = [shingles(text) for text in texts]
    return rensa.RMinHash.digest_matrix_from_token_sets(token_sets, NUM_MINIMA, 1)


def rensa_c_minhash(texts: list[str]) -> object:
    return rensa.CMinHash.digests_from_token_sets(map(shingles, texts), NUM_MINIMA, 1)


def datasketch_bulk(texts: list[str]) -> object:
    sets = ([shingle.encode() for shingle in shingles(text)] for text in texts)
    return datasketch.MinHash.bulk(sets, num_perm=NUM_MINIMA)


def datatrove_signatures() -> dict[str, Callable[[list[str]], object]]:
    """Of datatrove's step, which writes nothing here."""
    step = MinhashDedupSignature(tempfile.gettempdir())
    hashed = create_hash_func(step.config.hash_config)

    def by_re(text: str) -> np.ndarray:
        return np.fromiter(map(hashed, shingles(text)), np.uint64).reshape(-1, 1)

    def whole(text: str) -> np.ndarray:
        found: np.ndarray = step.get_shingles(text)
        return found if len(found) else by_re(text)  # of fewer than five words it has none

    assert step.num_hashes == NUM_MINIMA and step.config.n_grams == WIDTH
    return {
        "datatrove": lambda texts: [step.get_signature(whole(text)) for text in texts],
        "datatrove, words by re": lambda texts: [step.get_signature(by_re(one)) for one in texts],
    }


PROVIDERS: dict[str, Callable[[list[str]], object]] = {
    "megafm": megafm,
    "rensa RMinHash": rensa_bulk,
    "rensa CMinHash": rensa_c_minhash,
    "datasketch": datasketch_bulk,
    **datatrove_signatures(),
}


def result(path: Path, texts: list[str], rounds: int) -> dict[str, Any]:
    runs = {name: functools.partial(run, texts) for name, run in PROVIDERS.items()}
    cases = throughputs(take_turns(runs, rounds), texts)
    ours, *peers = (case["docs_per_s"] for case in cases)
    return {
        **provenance(torch.device("cpu")),
        "peers": {name: version(name) for name in ("rensa", "datasketch", "datatrove")},
        "clock": os.environ.get(CLOCK, "wall"),
        "text": identity(path, texts),
        "cases": cases,
        "bar": {"ratio": round(ours / max(peers), 2), "bar": BAR},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="MinHash from raw text to signatures.")
    parser.add_argument("text", type=Path, metavar="TEXT.jsonl")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if missing() is not None:
        parser.error(f"{missing()}; run: make setup")
    texts = read_texts(options.text)
    found = result(options.text, texts, options.rounds)
    for case in found["cases"]:
        print(f"{case['name']:22} {case['docs_per_s']:>9,} docs/s {case['mb_per_s']:>8.1f} MB/s")
    print(f"ours / best peer {found['bar']['ratio']} (bar {BAR})")
    write_result(f"data/minhash_{slug(torch.device('cpu'))}", found)


if __name__ == "__main__":
    main()

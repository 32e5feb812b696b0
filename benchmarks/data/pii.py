"""Personal data that is found, and what is taken for it: recall by kind, precision on decoys.

    python -m benchmarks.data.pii

Plants so many of each kind in sentences, and so many of each decoy. A plant is found if nothing of
it is left. Writes benchmarks/results/data/pii.json.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from typing import Any

from benchmarks.data.planted import DECOYS, PLANTS, sentence
from benchmarks.machine import write_result
from megafm.checkpoint.info import git_commit
from megafm.data.document import Document
from megafm.data.steps.pii import PII

BAR = 0.99
PLACEHOLDER = re.compile("<([A-Z_]+)>")


def redact(text: str) -> str:
    return PII()(Document("id", text, "benchmark", "a.txt", "CC0-1.0")).text


def recall(rng: random.Random, kind: str, count: int) -> dict[str, Any]:
    """How many are found as what they are; an example of one that is not."""
    missed = []
    for _ in range(count):
        text, plant = sentence(rng, PLANTS[kind])
        left = redact(text)
        value = re.sub(r"^(?:[a-zA-Z. ]+[:.]? )?|^api_key = ", "", plant)
        if f"<{kind}>" not in left or value in left:
            missed.append(text)
    found = count - len(missed)
    return {
        "kind": kind,
        "found": found,
        "of": count,
        "recall": found / count,
        "missed": missed[:3],
    }


def decoys(rng: random.Random, count: int) -> dict[str, Counter[str]]:
    """For each decoy the kinds that it was taken for."""
    taken = {}
    for name, make in DECOYS.items():
        texts = (redact(sentence(rng, make)[0]) for _ in range(count))
        taken[name] = Counter(kind for text in texts for kind in set(PLACEHOLDER.findall(text)))
    return taken


def result(count: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    kinds = [recall(rng, kind, count) for kind in PLANTS]
    taken = decoys(rng, count)
    wrong = sum(taken.values(), Counter())
    for row in kinds:
        row["false_positives"] = wrong[row["kind"]]
        row["precision"] = round(row["found"] / max(row["found"] + wrong[row["kind"]], 1), 4)
    return {
        "command": f"python -m benchmarks.data.pii --count {count} --seed {seed}",
        "commit": git_commit(),
        "version": PII.version,
        "of_each": count,
        "kinds": kinds,
        "decoys": {name: dict(sorted(counts.items())) for name, counts in taken.items()},
        "decoys_left_alone": round(1 - wrong.total() / (count * len(DECOYS)), 4),
        "bar": BAR,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall and precision of personal data.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = result(options.count, options.seed)
    for row in found["kinds"]:
        print(f"{row['kind']:18} recall {row['recall']:.4f} precision {row['precision']:.4f}")
    print(f"decoys left alone {found['decoys_left_alone']:.4f}")
    write_result("data/pii", found)


if __name__ == "__main__":
    main()

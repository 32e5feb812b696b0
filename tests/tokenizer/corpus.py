"""Made-up prose in several scripts, enough to learn a few hundred tokens from."""

from __future__ import annotations

import random

SYLLABLES = [
    "ka",
    "lo",
    "min",
    "ter",
    "une",
    "é",
    "ß",
    "\u0440\u0435",
    "\u043c\u0430",
    "数",
    "学",
    "der",
    "ing",
    "so",
]


def sentences(count: int = 300, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(400)]
    texts = []
    for _ in range(count):
        line = " ".join(rng.choices(words, k=rng.randint(3, 12)))
        texts.append(
            f"{line}, {rng.randrange(10**6)}.\n    {rng.choice(words)} = x[{rng.choice(words)}]\n"
        )
    return texts

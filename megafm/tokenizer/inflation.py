"""Into how many tokens the terms of a domain fall apart, beside other tokenizers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megafm.files import write_text
from megafm.picture import BASELINE, MODEL, picture
from megafm.tokenizer.tokenizer import Tokenizer

NUM_WORST = 10


@dataclass(frozen=True)
class Inflation:
    """
    Attributes:
        tokens_per_term: the mean, of the terms behind a blank.
        bytes_per_token: of all terms.
        whole: the share of terms that are one token.
        relative: tokens of all terms, divided by those of the first tokenizer.
        worst: the terms of the most tokens, with their numbers.
    """

    name: str
    vocab_size: int
    tokens_per_term: float
    bytes_per_token: float
    whole: float
    relative: float
    worst: dict[str, int]


def inflation(tokenizers: Mapping[str, Tokenizer], terms: Sequence[str]) -> list[Inflation]:
    """A row for each tokenizer, in their order.

    Raises:
        ValueError: there are no terms.
    """
    if not terms:
        raise ValueError("terms: no term in the file; put one on a line")
    behind_blank = [f" {term}" for term in terms]
    rows: list[Inflation] = []
    base = 0
    for name, tokenizer in tokenizers.items():
        counts = [len(ids) for ids in tokenizer.encode_batch(behind_blank)]
        total = max(1, sum(counts))
        base = base or total
        worst = sorted(zip(terms, counts, strict=True), key=lambda one: (-one[1], one[0]))
        rows.append(
            Inflation(
                name=name,
                vocab_size=tokenizer.vocab_size,
                tokens_per_term=total / len(terms),
                bytes_per_token=sum(len(term.encode()) for term in behind_blank) / total,
                whole=sum(count <= 1 for count in counts) / len(terms),
                relative=total / base,
                worst=dict(worst[:NUM_WORST]),
            )
        )
    return rows


def write_inflation(rows: Sequence[Inflation], folder: str | Path) -> None:
    """FOLDER/inflation.json and inflation.png, and a table on the terminal."""
    values = [dataclasses.asdict(row) for row in rows]
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_text(Path(folder) / "inflation.json", text + "\n")
    table = Table(title="tokens of the terms")
    table.add_column("tokenizer")
    for title in ("vocabulary", "tokens/term", "bytes/token", "whole", "relative"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.vocab_size:,}",
            f"{row.tokens_per_term:.2f}",
            f"{row.bytes_per_token:.2f}",
            f"{row.whole:.0%}",
            f"{row.relative:.2f}",
        )
    Console().print(table)
    with picture(Path(folder) / "inflation.png") as figure:
        axes = figure.subplots()
        colours = [MODEL, *[BASELINE] * (len(rows) - 1)]
        names, means = [row.name for row in rows], [row.tokens_per_term for row in rows]
        bars = axes.barh(names, means, color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.invert_yaxis()
        axes.set_title("tokens per term", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)

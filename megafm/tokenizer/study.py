"""The size of a vocabulary: what more tokens save, against what they cost.

A larger one packs more bytes into a token, so that a text takes fewer steps of the model's body;
but each token then goes through a larger output layer, and the embedding takes more memory. The
sum, training FLOPs per byte of text, has a minimum. Source of 6 FLOPs per parameter and token:
Kaplan et al., Scaling Laws for Neural Language Models (2020), section 2.1; of 12 x dim**2
parameters in a layer: ibid., table 1.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megafm.files import write_text
from megafm.picture import MODEL, VALIDATION, picture
from megafm.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SizeRow:
    """
    Attributes:
        embedding_parameters: vocab_size x dim, input and output being the same matrix.
        output_flops_per_token: of training, forward and backward, in the output layer.
        flops_per_byte: of training, in body and output layer.
    """

    vocab_size: int
    tokens: int
    bytes_per_token: float
    embedding_parameters: int
    output_flops_per_token: int
    flops_per_byte: float


def row(tokenizer: Tokenizer, texts: list[str], dim: int, num_layers: int) -> SizeRow:
    """What a tokenizer does to held-out texts.

    Raises:
        ValueError: there is no text.
    """
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    if tokens == 0:
        raise ValueError("action=study: no validation text; set split.validation_fraction=0.02")
    bytes_per_token = sum(len(text.encode()) for text in texts) / tokens
    body = 12 * num_layers * dim**2
    output = tokenizer.vocab_size * dim
    return SizeRow(
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        bytes_per_token=bytes_per_token,
        embedding_parameters=output,
        output_flops_per_token=6 * output,
        flops_per_byte=6 * (body + output) / bytes_per_token,
    )


def write_study(rows: Sequence[SizeRow], folder: str | Path, dim: int, num_layers: int) -> None:
    """FOLDER/study.json and study.png, and a table on the terminal."""
    best = min(rows, key=lambda row: row.flops_per_byte)
    values = {
        "dim": dim,
        "num_layers": num_layers,
        "rows": [dataclasses.asdict(row) for row in rows],
        "fewest_flops_per_byte": best.vocab_size,
    }
    write_text(Path(folder) / "study.json", json.dumps(values, indent=2) + "\n")
    table = Table(title=f"vocabulary sizes, for dim={dim} num_layers={num_layers}")
    titles = ("vocabulary", "bytes/token", "embedding M", "output MFLOPs/token", "MFLOPs/byte")
    for title in titles:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            f"{row.vocab_size:,}" + (" *" if row is best else ""),
            f"{row.bytes_per_token:.3f}",
            f"{row.embedding_parameters / 1e6:.2f}",
            f"{row.output_flops_per_token / 1e6:.1f}",
            f"{row.flops_per_byte / 1e6:.2f}",
        )
    Console().print(table, "* fewest training FLOPs per byte")
    _draw(rows, best, Path(folder) / "study.png")


def _draw(rows: Sequence[SizeRow], best: SizeRow, path: Path) -> None:
    """Bytes per token against the parameters that they cost, and what both together come to."""
    with picture(path) as figure:
        left, right = figure.subplots(1, 2)
        parameters = [row.embedding_parameters / 1e6 for row in rows]
        left.plot(parameters, [row.bytes_per_token for row in rows], "o-", color=MODEL)
        for row, at in zip(rows, parameters, strict=True):
            left.annotate(
                f"{row.vocab_size:,}",
                (at, row.bytes_per_token),
                xytext=(8, -12),
                textcoords="offset points",
            )
        left.set_title("bytes per token, by vocabulary size", loc="left", fontsize=11)
        left.set_xlabel("million parameters of the embedding")
        left.margins(x=0.15, y=0.15)
        left.set_xlim(left=0)
        sizes = [row.vocab_size for row in rows]
        right.plot(sizes, [row.flops_per_byte / 1e6 for row in rows], "o-", color=VALIDATION)
        right.annotate(
            "fewest",
            (best.vocab_size, best.flops_per_byte / 1e6),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
        )
        right.set_title("training MFLOPs per byte of text", loc="left", fontsize=11)
        right.set_xlabel("vocabulary size")
        right.set_xscale("log", base=2)
        right.set_xticks(sizes, [f"{size:,}" for size in sizes])
        right.margins(x=0.1, y=0.15)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)

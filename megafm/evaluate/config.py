"""The schema of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megafm.ops import OpsConfig
from megafm.paths import DataDir, SavedRun


@dataclass(frozen=True)
class EvaluateJob:
    """
    Attributes:
        seq_len: tokens of context; None is what the model was trained with.
        stride: new tokens that each further window of a long document scores; None is half of
            seq_len, so a token deep in a document has at least seq_len - stride of context.
        batch_tokens: tokens of one forward pass.
        precision: of the forward passes; auto is bf16 where the hardware multiplies it faster.
        ngram_order: of the n-gram baseline, which sees ngram_order - 1 bytes of context.
    """

    what: str = "validation loss, perplexity and bits per byte, against baselines"
    run: SavedRun = field(default_factory=SavedRun)
    data: DataDir = field(default_factory=DataDir)
    seq_len: int | None = None
    stride: int | None = None
    batch_tokens: int = 8192
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ngram_order: int = 5
    device: str = "auto"
    ops: OpsConfig = field(default_factory=OpsConfig)

    def __post_init__(self) -> None:
        for name in ("seq_len", "stride", "batch_tokens", "ngram_order"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1; leave it out")

"""Windows of a token stream as training samples, in an order that depends on no layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megafm.data.index import native
from megafm.data.samples import Batch, rows_of_epochs
from megafm.data.token_formats import Headerless, open_tokens


class TokenWindows:
    """Windows of seq_len + 1 tokens (inputs and targets) over the tokens of a shard.

    Neighbouring windows share one token, so every token but the first is a target once an
    epoch; a rest shorter than a window is left out. Sample i is a pure function of (seed, i):
    each epoch goes through all windows in an order of its own, or in file order with
    shuffle=False.

    Raises:
        ValueError: the shard is shorter than one window.
    """

    def __init__(
        self,
        prefix: str | Path,
        seq_len: int,
        seed: int = 0,
        headerless: Headerless | None = None,
        *,
        shuffle: bool = True,
    ) -> None:
        self.dataset = open_tokens(prefix, headerless)
        self.seq_len = seq_len
        self.attended_len = float(seq_len)
        self.seed = seed
        self.shuffle = shuffle
        tokens = self.dataset.num_tokens
        if tokens < 2:
            raise ValueError(
                f"{self.dataset.path}: {tokens} tokens, too few to train on; add documents"
            )
        if not 1 <= seq_len < tokens:
            raise ValueError(
                f"train.seq_len={seq_len}: {self.dataset.path} has {tokens} tokens, "
                f"a window takes train.seq_len + 1; set train.seq_len={tokens - 1} or less"
            )
        self.windows_per_epoch = (tokens - 1) // seq_len

    def batch(self, first: int, count: int) -> Batch:
        if self.shuffle:
            window = rows_of_epochs(first, count, self.windows_per_epoch, self.seed)
        else:
            window = np.arange(first, first + count, dtype=np.int64) % self.windows_per_epoch
        lengths = np.full(count, self.seq_len)
        data, starts = self.dataset.gather(window * self.seq_len, lengths + 1)
        rows = starts, lengths, np.arange(count + 1)
        tokens, targets, _ = native().gather_rows(data, *rows, self.seq_len)
        return Batch(tokens, targets)

    def epochs(self, num_samples: int) -> str:
        return f"{num_samples / self.windows_per_epoch:.2f} epochs"

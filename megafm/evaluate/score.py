"""The code length of documents under a model: every token scored once, from the document's start.

A document of n tokens is read as eod t_1 ... t_(n-1) and predicts t_1 ... t_n; nothing of the
document before it is visible. One longer than the context is covered by windows that overlap: the
first scores all of its tokens, each further one only those that the windows before it did not, and
the last is moved back so that it too is full. Every window but those of short documents therefore
has exactly seq_len tokens, and a token scored by a further window has at least seq_len - stride
tokens of context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megafm import ops
from megafm.model import Decoder


@dataclass(frozen=True)
class Window:
    """Tokens [start, end) of a document as targets, scored from `scored_from` on."""

    document: int
    start: int
    scored_from: int
    end: int


@dataclass(frozen=True)
class Score:
    """Nats summed over `tokens` tokens."""

    nats: float
    tokens: int


def windows(document: int, length: int, seq_len: int, stride: int) -> Iterator[Window]:
    """The windows over one document of `length` tokens."""
    scored = 0
    while scored < length:
        end = min(scored + stride if scored else seq_len, length)
        yield Window(document, max(0, end - seq_len), scored, end)
        scored = end


def score_documents(
    model: Decoder,
    documents: Sequence[np.ndarray],
    *,
    eod_id: int,
    seq_len: int,
    stride: int,
    batch_tokens: int = 8192,
    precision: torch.dtype = torch.float32,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Score:
    """Sum the negative log-likelihood of `documents`, token ids (n,) each, without their eod.

    Args:
        precision: float32, or bfloat16 for autocast.
        advance: called with the number of tokens each forward pass has scored.

    Raises:
        ValueError: the context does not fit the model, or the stride leaves tokens unscored.
    """
    check_windows(seq_len, stride, model.config.max_seq_len)
    todo = [
        window
        for index, document in enumerate(documents)
        for window in windows(index, len(document), seq_len, stride)
    ]
    todo.sort(key=lambda window: (window.start - window.end, window.document, window.start))
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision != torch.float32)
    nats, num_tokens = 0.0, 0
    with torch.no_grad(), autocast:
        for batch in _batches(todo, batch_tokens):
            inputs, targets, scored = (
                torch.from_numpy(array).to(device) for array in _collate(batch, documents, eod_id)
            )
            hidden = model.hidden(inputs)[scored]
            losses = ops.linear_cross_entropy(hidden, model.head_weight, targets[scored])
            nats += losses.item()
            new = sum(window.end - window.scored_from for window in batch)
            num_tokens += new
            advance(new)
    return Score(nats, num_tokens)


def check_windows(seq_len: int, stride: int, max_seq_len: int) -> None:
    if seq_len > max_seq_len:
        raise ValueError(
            f"seq_len={seq_len}: the model's context is {max_seq_len}; set seq_len={max_seq_len}"
        )
    if stride > seq_len:
        raise ValueError(
            f"stride={stride}: longer than seq_len={seq_len}, tokens between windows would not be "
            f"scored; set stride={max(1, seq_len // 2)}"
        )


def _batches(todo: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Consecutive windows, longest first, of at most `batch_tokens` tokens once padded."""
    first = 0
    while first < len(todo):
        longest = todo[first].end - todo[first].start
        count = max(1, batch_tokens // longest)
        yield todo[first : first + count]
        first += count


def _collate(
    batch: list[Window], documents: Sequence[np.ndarray], eod_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """inputs and targets (batch, longest) int64, padded at the end, and which are scored (bool)."""
    shape = (len(batch), batch[0].end - batch[0].start)
    inputs, targets = np.full(shape, eod_id), np.full(shape, eod_id)
    scored = np.zeros(shape, dtype=bool)
    for row, window in enumerate(batch):
        tokens = documents[window.document][window.start : window.end]
        targets[row, : len(tokens)] = tokens
        inputs[row, 1 : len(tokens)] = tokens[:-1]
        if window.start > 0:
            inputs[row, 0] = documents[window.document][window.start - 1]
        scored[row, window.scored_from - window.start : len(tokens)] = True
    return inputs, targets, scored

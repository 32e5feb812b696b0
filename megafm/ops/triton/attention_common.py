"""What the attention kernels share: which keys a query sees, and what its scores are.

A query sees an interval of keys, and a key is seen by an interval of queries, whatever mixture
of causal, window and packed documents is asked for; so masks and loop bounds come from two
numbers per row. exp(x) is 2**(x * log2(e)), the instruction that the chip has; scores stay in
base e, because one rounding more of a large lse is an error that shows.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def seen_interval(position, valid, offset, before, after, length, first, last):
    """The [low, high) of the other sequence for rows at `position` (block,).

    With `first` and `last` (packed documents) it is read from them; else it is what lies at most
    `before` positions before and `after` after position + offset, in [0, length).
    """
    if first is not None:
        low = tl.load(first + position, mask=valid, other=0)
        high = tl.load(last + position, mask=valid, other=0)
    else:
        low = tl.maximum(position + offset - before, 0)
        high = tl.maximum(tl.minimum(position + offset + after + 1, length), 0)
    return low, high


@triton.jit
def split_blocks(low, high, valid, BLOCK: tl.constexpr):
    """Blocks [begin, end) that some valid row sees; of them all rows see all of [full, rest)."""
    begin = tl.min(tl.where(valid, low, 2147483647), 0) // BLOCK
    end = tl.maximum(tl.cdiv(tl.max(tl.where(valid, high, 0), 0), BLOCK), begin)
    full = tl.cdiv(tl.max(tl.where(valid, low, 0), 0), BLOCK)
    full = tl.minimum(full, end)
    rest = tl.maximum(tl.min(tl.where(valid, high, 2147483647), 0) // BLOCK, full)
    return begin, full, rest, end


@triton.jit
def load_rows(pointers, rows, num_rows, MASK_ROWS: tl.constexpr, DIM: tl.constexpr):
    """A (rows, columns) block of which only rows below `num_rows` and DIM columns exist."""
    columns = tl.arange(0, pointers.shape[1])[None, :]
    if MASK_ROWS and pointers.shape[1] == DIM:
        block = tl.load(pointers, mask=rows[:, None] < num_rows, other=0.0)
    elif MASK_ROWS:
        mask = (rows[:, None] < num_rows) & (columns < DIM)
        block = tl.load(pointers, mask=mask, other=0.0)
    elif pointers.shape[1] == DIM:
        block = tl.load(pointers)
    else:
        block = tl.load(pointers, mask=columns < DIM, other=0.0)
    return block


@triton.jit
def repeated(columns, DIM: tl.constexpr):
    """Columns beyond DIM, which do not exist, read others: a mask in a loop costs registers."""
    if columns.shape[0] == DIM:
        existing = columns
    elif DIM % 32 == 0:  # in runs, so that a thread still loads several at once
        runs = tl.where(columns < DIM, columns, columns - (columns.shape[0] - DIM))
        existing = tl.max_contiguous(tl.multiple_of(runs, 32), 32)
    else:
        existing = tl.minimum(columns, DIM - 1)
    return existing


@triton.jit
def tanh(x):
    """To 2 units in the last place; the chip's tanh instruction has 11 bits."""
    square = x * x
    series = -0.006645598448812962
    series = series * square + 0.021296676248311996
    series = series * square - 0.05389886349439621
    series = series * square + 0.1333296149969101
    series = series * square - 0.33333325386047363
    small = x + x * square * series
    large = 1.0 - 2.0 / (tl.exp2(tl.abs(x) * (2 * LOG2E)) + 1.0)
    return tl.where(tl.abs(x) < 0.5, small, tl.where(x < 0, -large, large))


@triton.jit
def capped_scores(products, scale, softcap):
    """Scores from q @ k.T."""
    scores = products * scale
    if softcap is not None:
        scores = tanh(products * (scale / softcap)) * softcap
    return scores

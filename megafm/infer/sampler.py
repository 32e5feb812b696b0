"""Choose the next token from logits: temperature, top-k, top-p and repetition penalty.

The same order and meaning as in transformers: penalty (CTRL, arXiv:1909.05858), temperature,
top-k (arXiv:1805.04833), top-p (arXiv:1904.09751).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_k: draw from the k most likely tokens only; 0 from all.
        top_p: draw from the fewest tokens that together have this probability; 1 from all.
        repetition_penalty: divides positive and multiplies negative logits of tokens that the
            prompt or the text so far contains; 1 is none.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # so that nan is refused too
            raise ValueError(
                f"temperature={self.temperature}: must be 0 (greedy) or more; set temperature=0.8"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: must be 0 (all tokens) or more; set top_k=50")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1; set top_p=0.95")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: must be above 0; "
                "set repetition_penalty=1.0 (none)"
            )


def sample(
    logits: torch.Tensor,
    previous: torch.Tensor,
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw one token a row.

    Args:
        logits: (batch, vocab), any floating dtype.
        previous: (batch, length) int64, the tokens that the repetition penalty looks at.

    Returns:
        (batch,) int64.
    """
    scores = penalize_repetition(logits.float(), previous, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return scores.argmax(-1)
    scores = scores - scores.max(-1, keepdim=True).values  # 0 at most: no temperature overflows
    scores = keep_top_k(scores / sampling.temperature, sampling.top_k)
    probabilities = keep_top_p(scores, sampling.top_p).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


def penalize_repetition(
    logits: torch.Tensor, previous: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Make the tokens of `previous` (batch, length) less likely, each once."""
    if penalty == 1:
        return logits
    seen = logits.gather(-1, previous)
    return logits.scatter(-1, previous, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """-inf for all but the k largest logits (ties with the k-th stay); k = 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """-inf for the least likely tokens that together have at most probability 1 - p."""
    if p == 1:
        return logits
    ascending, order = logits.sort()
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
    removed[..., -1] = False
    return logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from megafm.infer.sampler import Sampling, keep_top_k, keep_top_p, penalize_repetition, sample


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(4, 97, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def previous() -> torch.Tensor:
    return torch.randint(0, 97, (4, 30), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3])
def test_repetition_penalty_equals_transformers(
    logits: torch.Tensor, previous: torch.Tensor, penalty: float
) -> None:
    expected = RepetitionPenaltyLogitsProcessor(penalty)(previous, logits)
    assert torch.equal(penalize_repetition(logits, previous, penalty), expected)


@pytest.mark.parametrize("k", [1, 5, 97, 200])
def test_top_k_equals_transformers(logits: torch.Tensor, k: int) -> None:
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(torch.empty(0), logits))


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_equals_transformers(logits: torch.Tensor, p: float) -> None:
    assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(torch.empty(0), logits))


def test_draws_follow_the_distribution_that_transformers_would_draw_from(
    logits: torch.Tensor, previous: torch.Tensor
) -> None:
    sampling = Sampling(temperature=1.7, top_k=8, top_p=0.9, repetition_penalty=1.2)
    scores = logits[:1]
    for processor in (
        RepetitionPenaltyLogitsProcessor(1.2),
        TemperatureLogitsWarper(1.7),
        TopKLogitsWarper(8),
        TopPLogitsWarper(0.9),
    ):
        scores = processor(previous[:1], scores)
    draws = 20_000
    many, before = logits[:1].expand(draws, -1), previous[:1].expand(draws, -1)
    tokens = sample(many, before, sampling, torch.Generator().manual_seed(2))
    frequency = torch.bincount(tokens, minlength=97) / draws
    assert (frequency - scores.softmax(-1)[0]).abs().max() < 0.015


def test_temperature_zero_takes_the_most_likely_token(
    logits: torch.Tensor, previous: torch.Tensor
) -> None:
    greedy = sample(logits, previous, Sampling(temperature=0, top_p=0.1))
    assert torch.equal(greedy, logits.argmax(-1))


def test_a_tiny_temperature_does_not_overflow(logits: torch.Tensor, previous: torch.Tensor) -> None:
    assert torch.equal(
        sample(logits, previous, Sampling(temperature=1e-45)),
        logits.argmax(-1),
    )


def test_low_precision_logits_are_sampled_in_float32(previous: torch.Tensor) -> None:
    logits = torch.zeros(4, 97, dtype=torch.bfloat16)
    assert sample(logits, previous, Sampling()).dtype == torch.int64


def test_an_empty_history_is_allowed(logits: torch.Tensor) -> None:
    empty = torch.empty(4, 0, dtype=torch.int64)
    greedy = sample(logits, empty, Sampling(temperature=0, repetition_penalty=1.5))
    assert torch.equal(greedy, logits.argmax(-1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)]
    + [("repetition_penalty", 0.0), ("repetition_penalty", math.nan), ("temperature", math.nan)],
)
def test_a_setting_that_cannot_work_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}={value}: .*set {field}="):
        Sampling(**{field: value})  # type: ignore[arg-type]

from __future__ import annotations

import dataclasses

import pytest
import torch

from megafm.infer.generate import generate
from megafm.infer.sampler import Sampling, penalize_repetition
from megafm.model import Decoder, ModelConfig, build

EOD = 0
CONFIG = ModelConfig(
    vocab_size=97, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48,
    max_seq_len=64, init_std=0.3, tie_embeddings=False,
)  # fmt: skip
GREEDY = Sampling(temperature=0, top_p=1)


@pytest.fixture(scope="module", params=[None, 7], ids=["full", "window7"])
def model(request: pytest.FixtureRequest) -> Decoder:
    return build(dataclasses.replace(CONFIG, window=request.param), seed=3).eval()


@torch.no_grad()
def without_cache(model: Decoder, prompt: list[int], count: int, penalty: float) -> list[int]:
    """Greedy tokens, the whole sequence read again for each."""
    text = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([[EOD, *text]]))[:, -1]
        history = torch.tensor([text], dtype=torch.int64)
        token = int(penalize_repetition(logits, history, penalty).argmax())
        if token == EOD:
            break
        text.append(token)
    return text[len(prompt) :]


@pytest.mark.parametrize("prompt", [[], [5], list(range(1, 20))], ids=["empty", "one", "long"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_with_a_cache_equals_reading_everything_again(
    model: Decoder, prompt: list[int], penalty: float
) -> None:
    sampling = dataclasses.replace(GREEDY, repetition_penalty=penalty)
    found = generate(model, prompt, eod_id=EOD, max_new_tokens=30, sampling=sampling)
    assert list(found) == without_cache(model, prompt, 30, penalty)


def test_a_seed_reproduces_and_another_differs(model: Decoder) -> None:
    def draw(seed: int) -> list[int]:
        hot = Sampling(temperature=2, top_p=1)
        return list(generate(model, [1], eod_id=EOD, max_new_tokens=40, sampling=hot, seed=seed))

    assert draw(1) == draw(1) != draw(2)


def test_the_end_of_document_stops_and_is_not_yielded(model: Decoder) -> None:
    tokens = list(generate(model, [4], eod_id=EOD, max_new_tokens=20, sampling=GREEDY))
    end = tokens[-1]
    cut = list(generate(model, [4], eod_id=end, max_new_tokens=20, sampling=GREEDY))
    assert end not in cut


def test_rows_beyond_the_tokenizer_are_never_drawn(model: Decoder) -> None:
    hot = Sampling(temperature=100, top_p=1)
    tokens = generate(model, [], eod_id=EOD, max_new_tokens=60, sampling=hot, vocab_size=3, seed=1)
    assert set(tokens) <= {1, 2}


def test_the_whole_context_can_be_filled(model: Decoder) -> None:
    hot = Sampling(temperature=2, top_p=1)
    room = CONFIG.max_seq_len - 4
    found = generate(model, [1, 2, 3, 4], eod_id=96, max_new_tokens=room, sampling=hot, seed=5)
    assert len(list(found)) <= room


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        (10, 55, "max_new_tokens=55: .*set max_new_tokens=54"),
        (64, 1, "prompt: 64 tokens .* at most 63"),
        (3, 0, "max_new_tokens=0: must be at least 1"),
    ],
)
def test_what_exceeds_the_context_is_refused_before_anything_is_drawn(
    model: Decoder, prompt: int, count: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(generate(model, [1] * prompt, eod_id=EOD, max_new_tokens=count))

from __future__ import annotations

import numpy as np
import pytest
import torch

from megafm.evaluate.score import score_documents, windows
from megafm.model import Decoder, ModelConfig, build

EOD = 0
CONFIG = ModelConfig(
    vocab_size=61, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=24,
    max_seq_len=32, init_std=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Decoder:
    return build(CONFIG, seed=1).eval()


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = [1, 5, 16, 17, 24, 25, 57, 0, 3]
    return [rng.integers(1, 61, length).astype(np.uint16) for length in lengths]


def token_by_token(model: Decoder, document: np.ndarray, seq_len: int, stride: int) -> float:
    """The definition, one forward pass a token: which tokens does token i see?"""
    nats = 0.0
    for i in range(len(document)):
        if i < seq_len:
            first = 0
        else:
            block_end = seq_len + (i - seq_len) // stride * stride + stride
            first = min(block_end, len(document)) - seq_len
        context = [EOD, *document.tolist()][first : i + 1]
        logits = model(torch.tensor([context]))[0, -1]
        nats -= logits.log_softmax(-1)[int(document[i])].item()
    return nats


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 12, 13, 100])
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_windows_score_every_token_once_with_enough_context(length: int, stride: int) -> None:
    scored: list[int] = []
    for window in windows(0, length, seq_len=8, stride=stride):
        scored += range(window.scored_from, window.end)
        assert window.end - window.start == min(8, length)
        assert window.start == 0 or window.scored_from - window.start >= 8 - stride
    assert scored == list(range(length))


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_the_score_equals_one_forward_pass_a_token(
    model: Decoder, documents: list[np.ndarray], batch_tokens: int
) -> None:
    with torch.no_grad():
        expected = sum(token_by_token(model, document, 16, 8) for document in documents)
    score = score_documents(
        model, documents, eod_id=EOD, seq_len=16, stride=8, batch_tokens=batch_tokens
    )
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.tokens == sum(map(len, documents))


def test_a_document_does_not_see_the_one_before_it(
    model: Decoder, documents: list[np.ndarray]
) -> None:
    def nats(chosen: list[np.ndarray]) -> float:
        return score_documents(model, chosen, eod_id=EOD, seq_len=16, stride=8).nats

    assert nats(documents) == pytest.approx(sum(nats([d]) for d in documents), rel=1e-5)


def test_progress_counts_every_token(model: Decoder, documents: list[np.ndarray]) -> None:
    done: list[int] = []
    score_documents(
        model, documents, eod_id=EOD, seq_len=16, stride=8, batch_tokens=32, advance=done.append
    )
    assert sum(done) == sum(map(len, documents)) and len(done) > 1


def test_bfloat16_comes_close(model: Decoder, documents: list[np.ndarray]) -> None:
    exact = score_documents(model, documents, eod_id=EOD, seq_len=16, stride=8)
    rough = score_documents(
        model, documents, eod_id=EOD, seq_len=16, stride=8, precision=torch.bfloat16
    )
    assert rough.nats == pytest.approx(exact.nats, rel=0.02)


@pytest.mark.parametrize(("seq_len", "stride", "field"), [(64, 8, "seq_len"), (16, 17, "stride")])
def test_windows_that_cannot_work_are_refused(
    model: Decoder, seq_len: int, stride: int, field: str
) -> None:
    with pytest.raises(ValueError, match=f"^{field}=.*set {field}="):
        score_documents(model, [], eod_id=EOD, seq_len=seq_len, stride=stride)

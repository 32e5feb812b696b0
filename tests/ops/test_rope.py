from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megafm import ops
from megafm.ops import RopeScaling
from megafm.ops.rope import rope_frequencies
from tests.ops.error_rule import assert_error_rule

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    (RopeScaling("linear", factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    (
        RopeScaling("yarn", factor=8.0, original_max_seq_len=4096),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096},
    ),
    (
        RopeScaling("yarn", 40.0, 2048, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25),
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 2048,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.25,
        },
    ),
    (
        RopeScaling("llama3", factor=8.0, original_max_seq_len=8192),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            **LLAMA3,
        },
    ),
]


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("ours", "theirs"), SCALINGS, ids=lambda x: getattr(x, "kind", ""))
def test_scaled_frequencies_match_transformers(
    ours: RopeScaling, theirs: dict, head_dim: int, base: float
) -> None:
    config = LlamaConfig(head_dim=head_dim, rope_parameters={"rope_theta": base, **theirs})
    expected, magnitude = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config)
    frequencies, ours_magnitude = rope_frequencies(head_dim, base, ours)
    torch.testing.assert_close(frequencies, expected, rtol=2e-6, atol=0)
    assert ours_magnitude == pytest.approx(magnitude)


def test_ntk_matches_transformers_dynamic_at_the_length_that_gives_its_factor() -> None:
    theirs = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0}
    config = LlamaConfig(head_dim=64, max_position_embeddings=2048, rope_parameters=theirs)
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=4096)
    frequencies, _ = rope_frequencies(64, 10000.0, RopeScaling("ntk", factor=3.0 * 2 - 2))
    torch.testing.assert_close(frequencies, expected, rtol=2e-6, atol=0)


def test_cache_holds_cos_and_sin_of_position_times_frequency() -> None:
    cos, sin = ops.rope_cache(50, 8, base=100.0)
    assert cos.shape == sin.shape == (50, 4) and cos.dtype == torch.float32
    assert cos[0].tolist() == [1.0] * 4
    assert sin[7, 2].item() == pytest.approx(torch.tensor(7 * 100.0**-0.5).sin().item())
    magnified, _ = ops.rope_cache(9, 8, scaling=RopeScaling("yarn", 4.0, 4, attention_factor=2.0))
    assert magnified[0].tolist() == [2.0] * 4


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_multiplication_of_complex_pairs(interleaved: bool) -> None:
    q, k = torch.randn(2, 5, 3, 8).double(), torch.randn(2, 5, 1, 8).double()
    cos, sin = (x.double() for x in ops.rope_cache(5, 8))
    turn = torch.complex(cos, sin)[:, None, :]
    for x, got in zip((q, k), ops.apply_rope(q, k, cos, sin, interleaved=interleaved), strict=True):
        pairs = x.unflatten(-1, (4, 2)) if interleaved else x.unflatten(-1, (2, 4)).mT
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        expected = turned.flatten(-2) if interleaved else turned.mT.flatten(-2)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("positions", [torch.tensor([4, 2, 9]), torch.tensor([[4, 2, 9]] * 2)])
def test_positions_pick_rows_of_the_cache(positions: torch.Tensor) -> None:
    cos, sin = ops.rope_cache(10, 6)
    q, k = torch.randn(2, 10, 2, 6), torch.randn(2, 10, 1, 6)
    whole, _ = ops.apply_rope(q, k, cos, sin)
    at = torch.tensor([4, 2, 9])
    some, _ = ops.apply_rope(q[:, at], k[:, at], cos, sin, positions=positions)
    assert torch.equal(some, whole[:, at])


def test_scores_depend_on_the_distance_alone() -> None:
    cos, sin = (x.double() for x in ops.rope_cache(100, 16))
    q, k = torch.randn(1, 1, 1, 16).double(), torch.randn(1, 1, 1, 16).double()

    def score(q_at: int, k_at: int) -> float:
        turned_q, _ = ops.apply_rope(q, k, cos, sin, positions=torch.tensor([q_at]))
        _, turned_k = ops.apply_rope(q, k, cos, sin, positions=torch.tensor([k_at]))
        return (turned_q * turned_k).sum().item()

    assert score(17, 5) == pytest.approx(score(92, 80), rel=1e-5)


def plain(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple:
    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        c, s = cos[: x.shape[1], None], sin[: x.shape[1], None]
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    return rotate(q), rotate(k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("seq_len", [0, 1, 17])
def test_error_rule(seq_len: int, dtype: torch.dtype) -> None:
    q, k = torch.randn(2, seq_len, 4, 6), torch.randn(2, seq_len, 2, 6)
    assert_error_rule(ops.apply_rope, plain, (q, k, *ops.rope_cache(20, 6)), dtype)


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients_match_finite_differences(interleaved: bool) -> None:
    q, k = (torch.randn(1, 3, 2, 4).double().requires_grad_() for _ in range(2))
    cos, sin = (x.double() for x in ops.rope_cache(3, 4))
    assert torch.autograd.gradcheck(
        lambda q, k: ops.apply_rope(q, k, cos, sin, interleaved=interleaved), (q, k)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "yran"}, "rope_scaling.kind=yran: set one of linear, ntk, yarn, llama3"),
        ({"kind": "linear", "factor": 0.5}, "rope_scaling.factor=0.5"),
        ({"kind": "llama3", "factor": 8.0}, "rope_scaling.original_max_seq_len=None"),
        ({"high_freq_factor": 1.0}, "rope_scaling.high_freq_factor=1.0"),
    ],
)
def test_wrong_scaling_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RopeScaling(**fields)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim=7"):
        ops.rope_cache(4, 7)
    q = torch.randn(1, 5, 1, 4)
    with pytest.raises(ValueError, match="seq 5 is longer than the cache 4"):
        ops.apply_rope(q, q, *ops.rope_cache(4, 4))


@pytest.mark.parametrize(("seq_k", "width"), [(5, 4), (1, 1)])
def test_shapes_that_would_only_broadcast_are_refused(seq_k: int, width: int) -> None:
    cos, sin = (table[:, :width] for table in ops.rope_cache(8, 8))
    with pytest.raises(ValueError, match="do not fit together"):
        ops.apply_rope(torch.randn(1, 1, 2, 8), torch.randn(1, seq_k, 2, 8), cos, sin)

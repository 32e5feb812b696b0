from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megafm import ops
from megafm.ops import RopeScaling
from megafm.ops.rope import rope_frequencies
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule

BACKENDS = ["reference", *CPU]

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


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("rope", request.param):
        yield request.param


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
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_rotation_is_multiplication_of_complex_pairs(backend: str, interleaved: bool) -> None:
    q, k = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 1, 8)
    cos, sin = ops.rope_cache(5, 8)
    turn = torch.complex(cos, sin)[:, None, :]
    for x, got in zip((q, k), ops.apply_rope(q, k, cos, sin, interleaved=interleaved), strict=True):
        pairs = x.unflatten(-1, (4, 2)) if interleaved else x.unflatten(-1, (2, 4)).mT
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        expected = turned.flatten(-2) if interleaved else turned.mT.flatten(-2)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("positions", [[4, 2, 9], [[4, 2, 9], [1, 0, 3]]], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_positions_pick_rows_of_the_cache(backend: str, positions: list) -> None:
    cos, sin = ops.rope_cache(10, 6)
    q, k = torch.randn(2, 10, 2, 6), torch.randn(2, 10, 1, 6)
    whole = ops.apply_rope(q, k, cos, sin)
    at = torch.tensor(positions)
    batch, at_batch = torch.arange(2)[:, None], at.expand(2, 3)
    some = ops.apply_rope(q[batch, at_batch], k[batch, at_batch], cos, sin, positions=at)
    for got, every in zip(some, whole, strict=True):
        assert torch.equal(got, every[batch, at_batch])


@pytest.mark.parametrize("position", [10, 1 << 40])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_positions_outside_the_cache_are_refused(backend: str, position: int) -> None:
    q, positions = torch.randn(1, 2, 1, 6), torch.tensor([0, position])
    with pytest.raises(IndexError):
        ops.apply_rope(q, q, *ops.rope_cache(10, 6), positions=positions)


@needs_library
def test_cpu_refuses_negative_positions() -> None:
    q = torch.randn(1, 2, 1, 6)
    with ops.use(rope="cpu"), pytest.raises(IndexError, match="position -1 is outside the cache"):
        ops.apply_rope(q, q, *ops.rope_cache(10, 6), positions=torch.tensor([0, -1]))


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
@pytest.mark.parametrize(("seq_len", "head_dim"), [(0, 6), (1, 6), (17, 66), (239, 14)])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_error_rule(backend: str, seq_len: int, head_dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, seq_len, 4, head_dim), torch.randn(2, seq_len, 2, head_dim)
    cos, sin = ops.rope_cache(240, head_dim)

    def ours(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The tables are fp32 whatever the activations are, except in the float64 run.
        wide = torch.promote_types(q.dtype, torch.float32)
        return ops.apply_rope(q, k, cos.to(wide), sin.to(wide))

    def theirs(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return plain(q, k, cos.to(q.dtype), sin.to(q.dtype))

    assert_error_rule(ours, theirs, (q, k), dtype)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_takes_slices_of_one_projection_and_any_other_layout(backend: str) -> None:
    torch.manual_seed(0)
    cos, sin = ops.rope_cache(7, 10)
    fused = torch.randn(3, 7, 9, 10)  # q, k and v of a fused projection
    layouts = [fused, fused.transpose(0, 2).contiguous().transpose(0, 2), fused.mT.contiguous().mT]
    for layout in layouts:
        q, k = (x.detach().requires_grad_() for x in (layout[:, :, :5], layout[:, :, 5:7]))
        ours, expected = ops.apply_rope(q, k, cos, sin), plain(q, k, cos, sin)
        torch.testing.assert_close(ours, expected)
        # The gradient of a sum is one number in every place: strides of 0.
        ours = torch.autograd.grad(sum(x.sum() for x in ours), (q, k))
        expected = torch.autograd.grad(sum(x.sum() for x in expected), (q, k))
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("interleaved", [False, True])
def test_reference_gradients_match_finite_differences(interleaved: bool) -> None:
    q, k = (torch.randn(1, 3, 2, 4).double().requires_grad_() for _ in range(2))
    cos, sin = (x.double() for x in ops.rope_cache(3, 4))
    with ops.use(rope="reference"):
        assert torch.autograd.gradcheck(
            lambda q, k: ops.apply_rope(q, k, cos, sin, interleaved=interleaved), (q, k)
        )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("backend", CPU, indirect=True)
def test_gradients_turn_back(backend: str, interleaved: bool) -> None:
    q, k = (torch.randn(2, 5, heads, 12, requires_grad=True) for heads in (3, 1))
    d_q, d_k = (torch.randn_like(x) for x in (q, k))
    positions = torch.tensor([3, 0, 7, 7, 1])
    found = []
    for chosen in (ops.use(), ops.use(rope="reference")):
        with chosen:
            tables = ops.rope_cache(8, 12)
            turned = ops.apply_rope(q, k, *tables, positions=positions, interleaved=interleaved)
        found.append(torch.autograd.grad(turned, (q, k), (d_q, d_k)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_second_derivatives_are_right(backend: str) -> None:
    q, d_q = (torch.randn(1, 3, 2, 4, requires_grad=True) for _ in range(2))
    turned, _ = ops.apply_rope(q, q.detach(), *ops.rope_cache(3, 4))
    (slope,) = torch.autograd.grad(turned, q, d_q, create_graph=True)
    # The op is linear and keeps lengths: the gradient of |gradient|^2 / 2 is d_q again.
    torch.testing.assert_close(torch.autograd.grad(slope.square().sum() / 2, d_q)[0], d_q)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_inf_and_nan_reach_their_own_pair_alone(backend: str) -> None:
    q = torch.ones(1, 1, 1, 8)
    q[..., 1], q[..., 6] = float("nan"), float("inf")
    cos, sin = (torch.full((1, 4), value) for value in (0.8, 0.6))
    turned, _ = ops.apply_rope(q, q, cos, sin)
    assert turned.isfinite().flatten().tolist() == [True, False, False, True] * 2
    assert turned[..., [1, 5]].isnan().all() and turned[..., [2, 6]].isinf().all()


@pytest.mark.parametrize("with_positions", [False, True])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_compiled_in_one_graph_equals_eager(backend: str, with_positions: bool) -> None:
    q, k = (torch.randn(2, 3, heads, 8, requires_grad=True) for heads in (2, 1))
    positions = torch.tensor([2, 0, 4]) if with_positions else None

    def turn(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ops.apply_rope(q, k, *tables, positions=positions)

    tables = ops.rope_cache(5, 8)
    compiled = torch.compile(turn, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(q, k), turn(q, k)
    assert all(map(torch.equal, ours, expected))
    cotangents = [torch.randn_like(x) for x in ours]
    ours = torch.autograd.grad(ours, (q, k), cotangents)
    assert all(map(torch.equal, ours, torch.autograd.grad(expected, (q, k), cotangents)))


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cpu_op_passes_opcheck(dtype: torch.dtype) -> None:
    q, k = (torch.randn(2, 3, heads, 8, dtype=dtype, requires_grad=True) for heads in (2, 1))
    cos, sin = ops.rope_cache(5, 8)
    for positions in (None, torch.tensor([2, 0, 4])):
        arguments = (q, k, cos, sin, positions, False, False)
        torch.library.opcheck(torch.ops.megafm.rope.default, arguments)


@needs_library
def test_cpu_gives_the_same_bits_on_any_number_of_threads() -> None:
    q, k = (torch.randn(4, 100, heads, 64, requires_grad=True) for heads in (4, 2))
    tables = ops.rope_cache(100, 64)

    def compute() -> list[torch.Tensor]:
        with ops.use(rope="cpu"):
            turned = ops.apply_rope(q, k, *tables)
        return [*turned, *torch.autograd.grad(turned, (q, k), (q.detach(), k.detach()))]

    assert_same_bits(compute)


def test_gradients_of_the_tables_come_from_the_reference() -> None:
    q, tables = torch.randn(1, 3, 1, 4), [x.requires_grad_() for x in ops.rope_cache(3, 4)]
    turned, _ = ops.apply_rope(q, q, *tables)
    assert all(x is not None for x in torch.autograd.grad(turned.sum(), tables))


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
    with pytest.raises(ValueError, match="head_dim=2: ntk"):
        ops.rope_cache(4, 2, scaling=RopeScaling("ntk", factor=2.0))
    q = torch.randn(1, 5, 1, 4)
    with pytest.raises(ValueError, match="seq 5 is longer than the cache 4"):
        ops.apply_rope(q, q, *ops.rope_cache(4, 4))


@pytest.mark.parametrize(("seq_k", "width"), [(5, 4), (1, 1)])
def test_shapes_that_would_only_broadcast_are_refused(seq_k: int, width: int) -> None:
    cos, sin = (table[:, :width] for table in ops.rope_cache(8, 8))
    with pytest.raises(ValueError, match="do not fit together"):
        ops.apply_rope(torch.randn(1, 1, 2, 8), torch.randn(1, seq_k, 2, 8), cos, sin)


@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 2, 5)], ids=str)
def test_positions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    q, positions = torch.randn(2, 5, 1, 8), torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not fit q"):
        ops.apply_rope(q, q, *ops.rope_cache(8, 8), positions=positions)


def test_tensors_on_two_devices_are_refused() -> None:
    q = torch.randn(1, 5, 1, 8)
    with pytest.raises(ValueError, match="cos is on meta"):
        ops.apply_rope(q, q, *ops.rope_cache(5, 8, device="meta"))

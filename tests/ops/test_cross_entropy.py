from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ranks import RankPool

TOKENS, VOCAB, DIM = 21, 12, 6


def make() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(0, VOCAB, (TOKENS,))
    targets[::4] = -100
    return torch.randn(TOKENS, VOCAB) * 3, targets


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_error_rule(dtype: torch.dtype) -> None:
    assert_error_rule(ops.cross_entropy, plain, make(), dtype)


def test_z_loss_adds_the_squared_lse_of_valid_tokens() -> None:
    logits, targets = make()
    extra = torch.logsumexp(logits, -1).square().masked_fill(targets == -100, 0)
    expected = plain(logits, targets) + 0.01 * extra
    torch.testing.assert_close(ops.cross_entropy(logits, targets, z_loss=0.01), expected)


def test_gradients_match_finite_differences() -> None:
    logits, targets = make()
    assert torch.autograd.gradcheck(
        lambda x: ops.cross_entropy(x, targets, z_loss=0.1), logits.double().requires_grad_()
    )


def test_logits_far_beyond_exp_are_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    losses = ops.cross_entropy(logits, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 2e4]
    losses.sum().backward()
    assert logits.grad.tolist() == [[0, 0], [1, -1]]


def test_takes_any_batch_shape_and_other_ignored_ids() -> None:
    logits, targets = torch.randn(2, 3, 7), torch.tensor([[0, 3, 6], [3, 1, 2]])
    expected = F.cross_entropy(logits.mT, targets, reduction="none", ignore_index=3)
    torch.testing.assert_close(ops.cross_entropy(logits, targets, ignore_index=3), expected)
    assert ops.cross_entropy(logits[:0], targets[:0]).shape == (0, 3)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets \(3,\) do not fit logits \(2, 5\)"):
        ops.cross_entropy(torch.randn(2, 5), torch.zeros(3, dtype=torch.int64))


def sharded_losses_and_gradients() -> list[torch.Tensor]:
    """On one rank: losses, then the gradients of logits (own slice), hidden and weight (own)."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    logits, targets = make()
    hidden, weight = make_linear()
    own = slice(rank * VOCAB // ranks, (rank + 1) * VOCAB // ranks)
    found = []
    leaf = logits.double()[:, own].requires_grad_()
    losses = ops.cross_entropy(leaf, targets, z_loss=0.1, group=dist.group.WORLD)
    found += [losses, *torch.autograd.grad(losses @ cotangent(), leaf)]
    for backend in ("reference", "torch"):
        for reduction in ("sum", "none"):
            x, w = hidden.clone().requires_grad_(), weight[own].clone().requires_grad_()
            with ops.use(linear_cross_entropy=backend):
                loss = ops.linear_cross_entropy(
                    x,
                    w,
                    targets,
                    softcap=4.0,
                    z_loss=0.1,
                    reduction=reduction,
                    group=dist.group.WORLD,
                )
            total = loss if reduction == "sum" else loss @ cotangent()
            found += [loss, *torch.autograd.grad(total, (x, w))]
    return [x.detach() for x in found]


def make_linear() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(TOKENS, DIM).double(), torch.randn(VOCAB, DIM).double()


def cotangent() -> torch.Tensor:
    return torch.linspace(-1, 2, TOKENS, dtype=torch.float64)


@pytest.mark.parametrize("world_size", [2])
def test_vocabulary_sharded_over_ranks_equals_one_rank(ranks: RankPool, world_size: int) -> None:
    shards = ranks.run(sharded_losses_and_gradients, world_size)
    logits, targets = make()
    leaf = logits.double().requires_grad_()
    losses = ops.cross_entropy(leaf, targets, z_loss=0.1)
    expected = [losses, *torch.autograd.grad(losses @ cotangent(), leaf)]
    hidden, weight = (x.requires_grad_() for x in make_linear())
    with ops.use(linear_cross_entropy="reference"):
        for reduction in ("sum", "none") * 2:
            loss = ops.linear_cross_entropy(
                hidden, weight, targets, softcap=4.0, z_loss=0.1, reduction=reduction
            )
            total = loss if reduction == "sum" else loss @ cotangent()
            expected += [loss, *torch.autograd.grad(total, (hidden, weight))]
    sharded_dim = {1: 1, **{index: 0 for index in range(4, len(expected), 3)}}
    for index, whole in enumerate(expected):
        own = [shard[index] for shard in shards]
        if index in sharded_dim:
            torch.testing.assert_close(torch.cat(own, dim=sharded_dim[index]), whole)
        else:
            for got in own:
                torch.testing.assert_close(got, whole.detach())

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from megafm import ops
from megafm.ops import _library
from megafm.ops.cpp.softmax import SoftmaxKernels
from megafm.ops.cpp.storage import CPU as ON_CPU
from megafm.ops.cross_entropy import NO_COLUMN, TorchKernels
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule
from tests.ranks import RankPool

TOKENS, VOCAB, DIM = 21, 12, 6
BACKENDS = ["reference", *CPU]
# Where ranks share the vocabulary: backends of both ops, and the dtype that they are tried in.
SHARDED = [("reference", "reference", torch.float64), ("reference", "torch", torch.float64)]
if _library.library_missing() is None:
    SHARDED.append(("cpu", "cpu", torch.float32))


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("cross_entropy", request.param):
        yield request.param


def make() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(0, VOCAB, (TOKENS,))
    targets[::4] = -100
    return torch.randn(TOKENS, VOCAB) * 3, targets


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("vocab", [1, 12, 239, 799, 1023, 5001])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_error_rule(backend: str, vocab: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, vocab, (9,))
    targets[::4] = -100
    assert_error_rule(ops.cross_entropy, plain, (torch.randn(9, vocab) * 3, targets), dtype)


@pytest.mark.parametrize("backend", CPU, indirect=True)
def test_a_maximum_may_come_late_in_a_long_row(backend: str) -> None:
    torch.manual_seed(0)
    rising = torch.linspace(-300, 300, 20011) + torch.randn(20011)
    behind_a_mask = rising.masked_fill(torch.arange(20011) < 9999, -torch.inf)
    logits = torch.stack((rising, behind_a_mask, rising.flip(0)))
    targets = torch.tensor([20000, 15000, 0])
    got = ops.cross_entropy(logits, targets)
    torch.testing.assert_close(got.double(), plain(logits.double(), targets), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("above", [-1.0, 1.0, 3.9, 4.1, 14.0, 60.0, 200.0])
@pytest.mark.parametrize("where", [0, 63, 64, 4095, 4096, 5000])
@pytest.mark.parametrize("backend", CPU, indirect=True)
def test_one_logit_may_be_far_above_the_others_anywhere(
    backend: str, where: int, above: float
) -> None:
    torch.manual_seed(0)
    logits = -torch.rand(3, 5001)
    logits[0, where] = above
    logits[1, where:] += above
    logits[2, : where + 1] += above
    targets = torch.full((3,), where)
    losses = ops.cross_entropy(logits, targets)
    expected = plain(logits.double(), targets).float()
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_losses_near_zero_keep_their_digits(backend: str) -> None:
    logits = torch.tensor([[1000.0, 990.0], [0.0, -16.0]])
    losses = ops.cross_entropy(logits, torch.tensor([0, 0]))
    expected = torch.log1p(torch.tensor([-10.0, -16.0]).double().exp()).float()
    torch.testing.assert_close(losses, expected, rtol=0, atol=6e-8)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_z_loss_adds_the_squared_lse_of_valid_tokens(backend: str) -> None:
    logits, targets = make()
    leaf = logits.requires_grad_()
    extra = torch.logsumexp(leaf, -1).square().masked_fill(targets == -100, 0)
    expected = plain(leaf, targets) + 0.01 * extra
    losses = ops.cross_entropy(leaf, targets, z_loss=0.01)
    torch.testing.assert_close(losses, expected)
    cotangents = torch.linspace(-1, 2, TOKENS)
    ours = torch.autograd.grad(losses, leaf, cotangents)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, leaf, cotangents))


def test_reference_gradients_match_finite_differences() -> None:
    logits, targets = make()
    with ops.use(cross_entropy="reference"):
        assert torch.autograd.gradcheck(
            lambda x: ops.cross_entropy(x, targets, z_loss=0.1), logits.double().requires_grad_()
        )


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_logits_far_beyond_exp_are_finite(backend: str) -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    losses = ops.cross_entropy(logits, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 2e4]
    losses.sum().backward()
    assert logits.grad.tolist() == [[0, 0], [1, -1]]


@pytest.mark.parametrize("level", [-1000.0, 0.0, 1000.0])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_masked_logits_have_no_probability_and_no_gradient(backend: str, level: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 9000) + level
    logits[:, :6500] = -torch.inf  # the first blocks of a row hold nothing else
    logits[0, 6500:-1] = -torch.inf
    leaf, targets = logits.requires_grad_(), torch.tensor([8999, 6600, 7000])
    losses = ops.cross_entropy(leaf, targets)
    expected = plain(leaf, targets)
    torch.testing.assert_close(losses, expected)
    ours = torch.autograd.grad(losses.sum(), leaf)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), leaf)[0])
    assert not ours[:, :6500].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_nan_and_infinity_reach_their_own_row_alone(backend: str, value: float) -> None:
    logits, targets = make()
    logits[2, 5] = logits[4, 5] = value  # the target of row 4 is ignored
    losses = ops.cross_entropy(logits.requires_grad_(), targets)
    assert losses.isnan().nonzero().flatten().tolist() == [2]
    grad = torch.autograd.grad(losses.sum(), logits)[0]
    assert grad[2].isnan().all() and grad[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("backend", CPU, indirect=True)
def test_an_ignored_row_has_no_gradient_whatever_it_holds(backend: str) -> None:
    logits = torch.full((1, 4), float("nan"), requires_grad=True)
    ops.cross_entropy(logits, torch.tensor([-100]), z_loss=0.1).sum().backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_takes_any_batch_shape_and_other_ignored_ids(backend: str) -> None:
    logits, targets = torch.randn(2, 3, 7), torch.tensor([[0, 3, 6], [3, 1, 2]])
    expected = F.cross_entropy(logits.mT, targets, reduction="none", ignore_index=3)
    torch.testing.assert_close(ops.cross_entropy(logits, targets, ignore_index=3), expected)
    assert ops.cross_entropy(logits[:0], targets[:0]).shape == (0, 3)
    assert ops.cross_entropy(logits[0, 0], targets[0, 0]).shape == ()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_takes_a_slice_of_padded_logits_and_any_other_layout(backend: str) -> None:
    torch.manual_seed(0)
    whole, targets = torch.randn(4, 6, 20), torch.randint(0, 6, (4, 6))
    for logits in (
        whole[..., :13],
        whole[:, :, ::2],
        whole.transpose(0, 1),
        whole.mT.contiguous().mT,
    ):
        leaf, ids = logits.detach().requires_grad_(), targets
        if logits.shape[0] != 4:
            ids = targets.T
        losses, expected = ops.cross_entropy(leaf, ids), plain(leaf.flatten(0, 1), ids.flatten())
        torch.testing.assert_close(losses.flatten(), expected)
        weights = torch.randn(losses.shape)
        ours = torch.autograd.grad((losses * weights).sum(), leaf)
        theirs = torch.autograd.grad(expected @ weights.flatten(), leaf)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("target", [VOCAB, -1, 1 << 40])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_targets_outside_the_vocabulary_are_refused(backend: str, target: int) -> None:
    logits, targets = make()
    targets[1] = target
    with pytest.raises((IndexError, RuntimeError), match=f"{target}"):
        ops.cross_entropy(logits, targets)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_compiled_in_one_graph_equals_eager(backend: str, z_loss: float) -> None:
    logits, targets = make()  # some are masked

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return ops.cross_entropy(logits, targets, z_loss=z_loss)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits.requires_grad_()
    assert torch.equal(compiled(logits), loss(logits))
    ours = torch.autograd.grad(compiled(logits).sum(), logits)[0]
    assert torch.equal(ours, torch.autograd.grad(loss(logits).sum(), logits)[0])


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cpu_ops_pass_opcheck(dtype: torch.dtype) -> None:
    logits, targets = make()
    logits, columns = logits.to(dtype), targets.masked_fill(targets == -100, NO_COLUMN)
    library = torch.ops.megafm
    torch.library.opcheck(library.softmax_stats.default, (logits, columns))
    rows = (columns, *(torch.randn(TOKENS) for _ in range(4)))
    torch.library.opcheck(library.softmax_backward.default, (logits, *rows))
    torch.library.opcheck(library.softmax_backward_.default, (logits, *rows, 3.0))


@needs_library
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cpu_gradient_in_place_is_that_of_the_torch_kernels(
    dtype: torch.dtype, softcap: float | None
) -> None:
    logits, targets = make()
    ours = (logits / 4).to(dtype)
    theirs, columns = ours.clone(), targets.masked_fill(targets == -100, NO_COLUMN)
    rows = (columns, *torch.randn(4, TOKENS).unbind())
    SoftmaxKernels(ON_CPU).gradient_in_place(ours, *rows, softcap=softcap)
    TorchKernels.gradient_in_place(theirs, *rows, softcap=softcap)
    torch.testing.assert_close(ours, theirs)


@needs_library
def test_cpu_gives_the_same_bits_on_any_number_of_threads() -> None:
    logits, targets = torch.randn(70, 2100, requires_grad=True), torch.randint(0, 2100, (70,))

    def compute() -> list[torch.Tensor]:
        with ops.use(cross_entropy="cpu"):
            losses = ops.cross_entropy(logits, targets, z_loss=0.1)
        return [losses, *torch.autograd.grad(losses.sum(), logits)]

    assert_same_bits(compute)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_second_derivatives_are_right_or_refused(backend: str) -> None:
    logits, targets = make()
    losses = ops.cross_entropy(logits.requires_grad_(), targets)
    try:
        (slope,) = torch.autograd.grad(losses.sum(), logits, create_graph=True)
    except NotImplementedError as error:
        assert str(error).endswith("set ops.cross_entropy=reference")
        return
    (found,) = torch.autograd.grad(slope.square().sum(), logits)
    (slope,) = torch.autograd.grad(plain(logits, targets).sum(), logits, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(slope.square().sum(), logits)[0])


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="targets is on meta"):
        ops.cross_entropy(torch.ones(2, 3), torch.ones(2, dtype=torch.int64, device="meta"))


@needs_library
def test_cpu_refuses_what_it_has_no_kernel_for() -> None:
    logits, targets = make()
    with ops.use(cross_entropy="cpu"), pytest.raises(ValueError, match="ops.cross_entropy=cpu"):
        ops.cross_entropy(logits.double(), targets)


def test_targets_that_are_not_int64_are_refused() -> None:
    logits, targets = make()
    with pytest.raises(ValueError, match=r"targets are torch.int32; give int64"):
        ops.cross_entropy(logits, targets.int())
    with pytest.raises(ValueError, match=r"targets are torch.int16; give int64"):
        ops.linear_cross_entropy(logits, logits, targets.short())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets \(3,\) do not fit logits \(2, 5\)"):
        ops.cross_entropy(torch.randn(2, 5), torch.zeros(3, dtype=torch.int64))


def losses_and_gradients(
    own: slice, group: dist.ProcessGroup | None, backends: tuple[str, str, torch.dtype]
) -> list[torch.Tensor]:
    """Losses, then gradients of logits (own slice); for both reductions of linear_cross_entropy
    the loss and the gradients of hidden and weight (own slice)."""
    cross_entropy, linear_cross_entropy, dtype = backends
    logits, targets = make()
    hidden, weight = (x.to(dtype) for x in make_linear())
    cotangents = torch.linspace(-1, 2, TOKENS, dtype=dtype)
    leaf = logits.to(dtype)[:, own].requires_grad_()
    with ops.use(cross_entropy=cross_entropy, linear_cross_entropy=linear_cross_entropy):
        losses = ops.cross_entropy(leaf, targets, z_loss=0.1, group=group)
        found = [losses, *torch.autograd.grad(losses @ cotangents, leaf)]
        for reduction in ("sum", "none"):
            x, w = hidden.clone().requires_grad_(), weight[own].clone().requires_grad_()
            terms = {"softcap": 4.0, "z_loss": 0.1, "reduction": reduction, "group": group}
            loss = ops.linear_cross_entropy(x, w, targets, **terms)
            total = loss if reduction == "sum" else loss @ cotangents
            found += [loss, *torch.autograd.grad(total, (x, w))]
    return [x.detach() for x in found]


def on_own_slice(backends: tuple[str, str, torch.dtype]) -> list[torch.Tensor]:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = slice(rank * VOCAB // ranks, (rank + 1) * VOCAB // ranks)
    return losses_and_gradients(own, dist.group.WORLD, backends)


def make_linear() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(TOKENS, DIM).double(), torch.randn(VOCAB, DIM).double()


@pytest.mark.parametrize("backends", SHARDED, ids=lambda backends: backends[1])
def test_vocabulary_sharded_over_ranks_equals_one_rank(ranks: RankPool, backends: tuple) -> None:
    shards = ranks.run(on_own_slice, 2, backends)
    whole = losses_and_gradients(slice(None), None, ("reference", "reference", torch.float64))
    sharded_dim = {1: 1, 4: 0, 7: 0}
    for index, expected in enumerate(whole):
        own = [shard[index] for shard in shards]
        if index in sharded_dim:
            own = [torch.cat(own, dim=sharded_dim[index])]
        for got in own:
            torch.testing.assert_close(got, expected.to(got.dtype), rtol=2e-6, atol=1e-5)


def losses_of_a_wrong_target() -> str:
    dist.init_process_group("gloo")
    logits, targets = make()
    targets[1] = 2 * VOCAB
    try:
        ops.cross_entropy(logits, targets, group=dist.group.WORLD)
    except (IndexError, RuntimeError) as error:
        return str(error)
    return ""


def test_every_rank_refuses_a_target_outside_the_whole_vocabulary(ranks: RankPool) -> None:
    assert all(ranks.run(losses_of_a_wrong_target, 2))

"""The decoder alone: what a token may see, caches and packing, initial weights, precision."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from megafm.model import KVCache, ModelConfig, build
from megafm.model.decoder import packed_positions

SMALL = ModelConfig(
    vocab_size=61,
    dim=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    ffn_dim=80,
    max_seq_len=64,
    init_std=0.2,
)
VARIANTS = {
    "plain": SMALL,
    "qk-norm": dataclasses.replace(SMALL, qk_norm=True),
    "window": dataclasses.replace(SMALL, window=5),
    "untied-mha": dataclasses.replace(SMALL, tie_embeddings=False, num_kv_heads=4),
}


@pytest.fixture(params=VARIANTS)
def model(request):
    return build(VARIANTS[request.param])


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_loss_is_the_summed_cross_entropy_of_the_logits(model):
    tokens, targets = random_tokens(2, 20), random_tokens(2, 20, seed=1)
    targets[0, 3:9] = -100
    logits = model(tokens)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(model.loss(tokens, targets), expected, atol=0, rtol=1e-6)
    assert model.loss(tokens, torch.full_like(targets, -100)) == 0


def test_gradients_of_the_loss_are_those_of_the_logits_path(model):
    tokens, targets = random_tokens(2, 20), random_tokens(2, 20, seed=1)
    parameters = list(model.parameters())
    expected = functional.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    for ours, theirs in zip(
        torch.autograd.grad(model.loss(tokens, targets), parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        close(ours / theirs.abs().max(), theirs / theirs.abs().max())


def test_no_token_sees_a_later_one(model):
    tokens = random_tokens(1, 20)
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 61
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:13], after[:, 12:13])


def test_window_ends_what_a_token_sees():
    model = build(dataclasses.replace(SMALL, window=3, num_layers=2))
    tokens = random_tokens(1, 20)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 61
    moved = (model(tokens) - model(changed)).abs().amax(-1)[0] > 1e-6
    # two layers of a window of 3 reach 2 * (3 - 1) tokens ahead
    assert moved.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("chunks", [[20], [13] + [1] * 7, [1] * 20, [5, 9, 6]])
def test_prefill_and_decode_with_a_cache_give_the_logits_of_one_pass(model, chunks):
    tokens = random_tokens(2, 20)
    cache = KVCache(max_len=24)
    with torch.no_grad():
        expected = model(tokens)
        parts = [model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)]
    assert cache.length == 20
    close(torch.cat(parts, dim=1), expected)


def test_cache_that_is_too_short_says_which_length_fits():
    cache = KVCache(max_len=8)
    model = build(SMALL)
    model(random_tokens(1, 6), cache=cache)
    with pytest.raises(ValueError, match=r"KVCache\(max_len=8\): 9 tokens.*set max_len=9"):
        model(random_tokens(1, 3), cache=cache)


def test_packed_sequences_equal_separate_ones(model):
    sequences = [random_tokens(1, length, seed=length) for length in (7, 1, 12)]
    cu_seqlens = torch.tensor([0, 7, 8, 20], dtype=torch.int32)
    packed = model(torch.cat(sequences, dim=1), cu_seqlens=cu_seqlens)
    close(packed, torch.cat([model(sequence) for sequence in sequences], dim=1))
    tokens, targets = torch.cat(sequences, dim=1), random_tokens(1, 20, seed=3)
    ends = cu_seqlens[1:-1].long()
    parts = [
        model.loss(t, y) for t, y in zip(sequences, targets.tensor_split(ends, dim=1), strict=True)
    ]
    loss = model.loss(tokens, targets, cu_seqlens=cu_seqlens)
    torch.testing.assert_close(loss, torch.stack(parts).sum(), atol=0, rtol=1e-6)


def test_packed_positions_count_from_zero_in_each_sequence():
    cu_seqlens = torch.tensor([0, 3, 3, 4, 6], dtype=torch.int32)
    assert packed_positions(cu_seqlens, 6).tolist() == [0, 1, 2, 0, 0, 1]


def test_only_the_distance_between_positions_matters(model):
    tokens = random_tokens(2, 20)
    shifted = torch.arange(20) + 9
    close(model(tokens, positions=shifted), model(tokens), atol=1e-4)
    close(model(tokens, positions=shifted.expand(2, -1)), model(tokens), atol=1e-4)
    stretched = model(tokens, positions=torch.arange(20) * 2)
    assert not torch.allclose(stretched, model(tokens), atol=1e-2)


def test_sequence_beyond_max_seq_len_is_refused():
    with pytest.raises(ValueError, match="model.max_seq_len=64.*set model.max_seq_len=65"):
        build(SMALL)(random_tokens(1, 65))


def test_initial_weights_depend_on_the_seed_alone():
    model = build(SMALL, seed=7)
    torch.manual_seed(99)
    with torch.device("meta"):
        later = build(SMALL, seed=0)
    later.to_empty(device="cpu")
    later.init_weights(seed=7)
    for name, parameter in model.named_parameters():
        assert torch.equal(later.get_parameter(name), parameter), name
    close(later(random_tokens(1, 9)), model(random_tokens(1, 9)), atol=0)
    other = build(SMALL, seed=8)
    assert not torch.equal(other.embedding.weight, model.embedding.weight)
    # a deeper model begins as this one, up to the scale of what goes into the residual stream
    deeper = build(dataclasses.replace(SMALL, num_layers=5), seed=7)
    assert torch.equal(
        deeper.blocks["1"].attention.wq.weight, model.blocks["1"].attention.wq.weight
    )


def test_initial_weights_have_the_scale_of_gpt2():
    config = dataclasses.replace(SMALL, dim=256, ffn_dim=256, init_std=0.02, num_layers=8)
    for name, parameter in build(config).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            into_residual = "wo" in name or "w_down" in name
            expected = 0.02 / math.sqrt(16) if into_residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel())


def test_untrained_model_knows_nothing():
    model = build(ModelConfig(vocab_size=512))
    tokens = torch.randint(512, (4, 64))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:]) / (4 * 63)
    assert loss.item() == pytest.approx(math.log(512), abs=0.1)


def test_state_holds_each_weight_once_and_no_tables():
    tied, untied = build(SMALL), build(dataclasses.replace(SMALL, tie_embeddings=False))
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"head.weight"}
    assert set(tied.state_dict()) == {name for name, _ in tied.named_parameters()}


def test_rotary_tables_survive_casts_and_meta():
    model = build(SMALL)
    cos = model.rotary.cos.clone()
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        model = model.to(dtype)
        assert torch.equal(model.rotary.cos, cos)
    model = model.to("meta")
    assert model.rotary.cos.is_meta
    assert torch.equal(model.to_empty(device="cpu").rotary.cos, cos)


def test_bf16_autocast_stays_near_fp32(model):
    tokens, targets = random_tokens(4, 32), random_tokens(4, 32, seed=1)
    exact = model.loss(tokens, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(tokens, targets)
        logits = model(tokens)
    assert loss.dtype == torch.float32 and logits.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_double_precision_runs_throughout(model):
    model = model.double()
    tokens = random_tokens(2, 20)
    assert model(tokens).dtype == torch.float64
    assert model.loss(tokens, tokens).dtype == torch.float64


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph_with_the_same_loss_and_gradients(backend):
    model = build(dataclasses.replace(SMALL, num_layers=1))
    tokens, targets = random_tokens(2, 16), random_tokens(2, 16, seed=1)
    parameters = list(model.parameters())
    expected = model.loss(tokens, targets)
    gradients = torch.autograd.grad(expected, parameters)
    compiled = torch.compile(model.loss, fullgraph=True, backend=backend)
    loss = compiled(tokens, targets)
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), gradients, strict=True):
        close(ours / theirs.abs().max(), theirs / theirs.abs().max())


def sharded_weights(seed: int) -> dict[str, np.ndarray]:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    with torch.device("meta"):
        model = build(SMALL)
    for block in model.blocks.values():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    model.init_weights(seed)
    return {name: w.full_tensor().detach().numpy() for name, w in model.named_parameters()}


def test_sharded_ranks_draw_the_weights_of_one_rank(ranks):
    expected = build(SMALL, seed=5)
    for weights in ranks.run(sharded_weights, 2, 5):
        for name, parameter in expected.named_parameters():
            assert np.array_equal(weights[name], parameter.detach()), name

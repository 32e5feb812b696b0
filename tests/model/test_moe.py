"""Mixture of experts: the sum it is defined as, what balances it, what counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from megafm.model import Decoder, ModelConfig, MoeConfig, build
from megafm.model.layers import Layers
from megafm.model.moe import MixtureOfExperts
from megafm.model.router import Router, routers
from megafm.parallel.activation_checkpointing import checkpoint_activations
from megafm.train.balance import balance_after_steps, imbalance

MOE = MoeConfig(num_experts=6, num_experts_per_token=2, ffn_dim=12)
SMALL = ModelConfig(
    vocab_size=61, dim=16, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=24,
    max_seq_len=64, init_std=0.2, moe=dataclasses.replace(MOE, num_dense_layers=1),
)  # fmt: skip
VARIANTS = {
    "softmax": MOE,
    "unnormalized": dataclasses.replace(MOE, normalize_weights=False, weight_scale=2.5),
    "sigmoid-shared": dataclasses.replace(MOE, scoring="sigmoid", num_shared_experts=2),
    "all-experts": dataclasses.replace(MOE, num_experts_per_token=6),
}


def block(moe: MoeConfig) -> MixtureOfExperts:
    config = dataclasses.replace(SMALL, num_layers=1, moe=moe)
    return build(config).double().blocks["0"].ffn


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(layer: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    """Token by token, expert by expert."""
    router, experts, moe = layer.router, layer.experts, layer.router.moe
    out = []
    for token in x.flatten(0, 1):
        logits = router.weight @ token
        scores = logits.softmax(0) if moe.scoring == "softmax" else logits.sigmoid()
        chosen = sorted(range(6), key=lambda i: -(scores[i] + router.bias[i]).item())
        chosen = chosen[: moe.num_experts_per_token]
        total = sum(scores[i] for i in chosen) if moe.normalize_weights else 1.0
        y = torch.zeros_like(token) if layer.shared is None else layer.shared(token)
        for i in chosen:
            hidden = functional.silu(experts.w_gate.weight[i] @ token)
            hidden = hidden * (experts.w_up.weight[i] @ token)
            y = y + moe.weight_scale * scores[i] / total * (experts.w_down.weight[i] @ hidden)
        out.append(y)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("name", VARIANTS)
def test_output_and_gradients_are_those_of_the_definition(name):
    layer, x = block(VARIANTS[name]), random(2, 5, 16).requires_grad_()
    layer.router.bias[1], layer.router.bias[4] = 1.0, -9.0
    upstream, inputs = random(2, 5, 16, seed=1), [x, *layer.parameters()]
    found, expected = layer(x), by_definition(layer, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(found, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-12)
    if name == "softmax":  # nobody was sent to expert 4
        assert not ours[2][4].any() and ours[2].any()


def test_the_auxiliary_loss_is_switchs_with_the_load_of_the_last_step():
    moe = dataclasses.replace(MOE, aux_loss=0.3, scoring="sigmoid")
    x, upstream = random(1, 7, 16), random(1, 7, 16, seed=1)
    without, layer = block(dataclasses.replace(moe, aux_loss=0.0)), block(moe)
    load = torch.tensor([20, 0, 4, 6, 8, 2])  # of a step of 20 tokens
    layer.router.end_step(load)
    for each in (without, layer):
        each(x).backward(upstream)
    scores = (x[0] @ layer.router.weight.T).sigmoid()
    share = (scores / scores.sum(1, keepdim=True)).sum(0) / 20
    loss = 0.3 * 6 * (load.double() / 40 * share).sum()
    (expected,) = torch.autograd.grad(loss, layer.router.weight)
    added = layer.router.weight.grad - without.router.weight.grad
    torch.testing.assert_close(added, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_step_counts_every_choice_once(mode):
    model, tokens = build(SMALL), torch.arange(40).view(2, 20)
    checkpoint_activations(model.blocks, (mode,))
    with torch.no_grad():
        model.loss(tokens, tokens)
    model.eval()
    model.loss(tokens, tokens).backward()
    assert all(router.counts is None for router in routers(model))
    model.train()
    for _ in range(2):
        model.loss(tokens, tokens).backward()
    assert len(routers(model)) == 2
    for router in routers(model):
        assert router.counts.sum() == 2 * 40 * 2


def test_the_bias_moves_against_the_load_and_changes_the_choice_alone():
    moe = dataclasses.replace(SMALL.moe, bias_update_rate=0.01)
    model = build(dataclasses.replace(SMALL, moe=moe))
    router = routers(model)[0]
    for load, expected in (
        ([5, 1, 3, 3, 2, 4], [-1, 1, 0, 0, 1, -1]),
        ([9, 1, 1, 1, 1, 1], [-2, 2, 1, 1, 2, 0]),
    ):
        router.end_step(torch.tensor(load))
        torch.testing.assert_close(router.bias, 0.01 * torch.tensor(expected).float())
    x = random(4, 16).float()
    router.bias.fill_(0)
    before, _, _ = router(x)
    router.bias.fill_(7)
    torch.testing.assert_close(router(x)[0], before)


def test_steps_keep_the_load_and_say_how_uneven_it_is():
    model: Decoder = build(SMALL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    balance_after_steps(optimizer, model, None)
    tokens = torch.arange(40).view(2, 20)
    model.loss(tokens, tokens).backward()
    counts = [router.counts.clone() for router in routers(model)]
    optimizer.step()
    for router, count in zip(routers(model), counts, strict=True):
        assert torch.equal(router.load, count) and router.counts is None
    worst = max(count.max().item() / (80 / 6) for count in counts)
    assert imbalance(model) == {"expert_load": pytest.approx(worst)}
    assert imbalance(build(dataclasses.replace(SMALL, moe=None))) == {}


def test_training_evens_the_load_out_by_loss_and_by_bias():
    def uneven(**balancing: float) -> float:
        torch.manual_seed(0)
        router = Router(16, dataclasses.replace(MOE, scoring="sigmoid", **balancing), Layers())
        torch.nn.init.normal_(router.weight, std=0.2)
        x = torch.randn(256, 16) + 1.0  # a common direction, so that some experts win always
        optimizer = torch.optim.SGD(router.parameters(), lr=0.1)
        balance_after_steps(optimizer, router, None)
        for _ in range(60):
            optimizer.zero_grad()
            (router(x)[0].sum() * 0).backward()
            optimizer.step()
        return imbalance(router)["expert_load"]

    without = uneven()
    assert uneven(aux_loss=1.0) < 0.7 * without
    assert uneven(bias_update_rate=0.01) < 0.7 * without


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts_per_token": 9}, "model.moe.num_experts_per_token=9: more than .* set .*=8"),
        ({"ffn_dim": 0}, "model.moe.ffn_dim=0: must be positive"),
        ({"aux_loss": -1.0}, "model.moe.aux_loss=-1.0: must not be negative; set .*=0"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MoeConfig(**fields)
    with pytest.raises(ValueError, match="num_dense_layers=6: leaves none of model.num_layers=6"):
        ModelConfig(moe=MoeConfig(num_dense_layers=6))

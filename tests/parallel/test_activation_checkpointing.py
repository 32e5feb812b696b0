"""Recomputation changes no bit of a gradient, and the memory it frees is counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from megafm import ops
from megafm.model import Decoder, ModelConfig, build
from megafm.parallel.activation_checkpointing import checkpoint_activations
from megafm.parallel.mesh import ParallelConfig
from megafm.train.config import TrainConfig, TrainJob
from megafm.train.loop import train
from tests.corpus import train_job
from tests.live_bytes import LiveBytes
from tests.ranks import RankPool
from tests.train.test_loop import curve, with_train

BATCH, SEQ = 2, 128
CONFIG = ModelConfig(
    vocab_size=64, dim=32, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=96,
    max_seq_len=SEQ, qk_norm=True,
)  # fmt: skip
TOKENS = torch.randint(0, 64, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
X_BYTES = BATCH * SEQ * CONFIG.dim * 4  # of the residual stream
BACKENDS = {"auto": {}, "reference": {"attention": "reference", "linear": "reference"}}


def model_with(modes: tuple[str, ...], num_layers: int = 4) -> Decoder:
    model = build(dataclasses.replace(CONFIG, num_layers=num_layers))
    checkpoint_activations(model.blocks, modes)
    return model


def gradients(model: Decoder) -> list[torch.Tensor]:
    model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def kept_bytes(modes: tuple[str, ...], num_layers: int = 4) -> int:
    """What the forward pass leaves for the backward pass."""
    model = model_with(modes, num_layers)
    with LiveBytes() as live:
        live.ignore([*model.parameters(), *model.buffers(), TOKENS])
        loss = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
        assert loss.requires_grad
        return live.now


@pytest.mark.parametrize("backends", BACKENDS)
@pytest.mark.parametrize("modes", [("selective",), ("full",), ("full", "none", "selective")])
def test_gradients_are_the_same_bits(modes: tuple[str, ...], backends: str) -> None:
    with ops.use(**BACKENDS[backends]):
        for expected, found in zip(
            gradients(model_with(("none",))), gradients(model_with(modes)), strict=True
        ):
            assert torch.equal(expected, found)


def test_a_full_layer_keeps_its_input_alone() -> None:
    per_layer = (kept_bytes(("full",), 4) - kept_bytes(("full",), 2)) / 2
    assert per_layer == X_BYTES


@pytest.mark.parametrize("backends", BACKENDS)
def test_a_selective_layer_keeps_input_matmuls_and_attention(backends: str) -> None:
    with ops.use(**BACKENDS[backends]):
        per_layer = (kept_bytes(("selective",), 4) - kept_bytes(("selective",), 2)) / 2
        all_of_it = (kept_bytes(("none",), 4) - kept_bytes(("none",), 2)) / 2
    widths = CONFIG.q_dim + 2 * CONFIG.kv_dim + CONFIG.dim + 2 * CONFIG.ffn_dim + CONFIG.dim
    matmuls = BATCH * SEQ * widths * 4
    attention = BATCH * SEQ * (CONFIG.q_dim + CONFIG.num_heads) * 4  # output and log-sum-exp
    assert X_BYTES + matmuls <= per_layer <= X_BYTES + matmuls + attention
    assert per_layer < 0.8 * all_of_it


def test_a_choice_by_layer_keeps_the_sum_of_its_layers() -> None:
    none, full = kept_bytes(("none",)), kept_bytes(("full",))
    # the last layer's output is kept by the norm that follows in either mode
    assert abs(kept_bytes(("full", "none")) - (none + full) / 2) <= X_BYTES


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(dp_replicate=1, dp_shard=2),
        ParallelConfig(dp_replicate=1, dp_shard=2, zero=2),
    ],
    ids=["ddp", "fsdp", "zero2"],
)
def test_a_run_on_two_ranks_is_the_same_bit_for_bit(
    parallel: ParallelConfig, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    for name, modes in {"none": "none", "mixed": ("full", "selective")}.items():
        job = train_job(corpus, tmp_path / name, parallel=parallel)
        ranks.run(train, 2, with_train(job, micro_batch_size=2, activation_checkpointing=modes))
    assert curve(tmp_path / "mixed") == curve(tmp_path / "none")


def test_a_mode_that_is_not_there_and_too_many_are_refused() -> None:
    for modes in ("ful", ("full", "some"), ()):
        with pytest.raises(ValueError, match="set one of none, selective, full, or a list"):
            TrainConfig(activation_checkpointing=modes)
    with pytest.raises(ValueError, match="7 modes are more than model.num_layers=6"):
        TrainJob(train=TrainConfig(activation_checkpointing=("full",) * 7))

"""The model's shape: wrong values are refused by name, presets count what they say."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from megafm.config import config_dir, from_dict
from megafm.model import (
    ModelConfig,
    MoeConfig,
    build,
    flops_per_token,
    matmul_parameters,
    num_active_parameters,
    num_parameters,
)
from megafm.model.count import mean_context

PRESETS = sorted((config_dir() / "model").glob("*.yaml"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 4}, "model.num_kv_heads=4: must divide model.num_heads=6"),
        ({"head_dim": 33}, "model.head_dim=33: must be even.*set model.head_dim=34"),
        ({"vocab_size": 0}, "model.vocab_size=0: must be positive; set model.vocab_size="),
        ({"num_layers": -1}, "model.num_layers=-1: must be positive"),
        ({"window": 0}, "model.window=0: must be positive; set model.window=null"),
    ],
)
def test_wrong_value_is_refused_with_one_that_works(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        ModelConfig(**fields)
    assert "\n" not in str(caught.value)
    fix = re.search(r"set model\.(\w+)=(\w+)", str(caught.value))
    ModelConfig(**{fix[1]: yaml.safe_load(fix[2])})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_comment_says_the_true_parameter_count(path):
    text = path.read_text()
    config = from_dict(ModelConfig, yaml.safe_load(text))
    with torch.device("meta"):
        model = build(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == num_parameters(config)
    assert text.startswith(f"# {counted:,} parameters: ")


def test_presets_run_from_tiny_to_175b():
    names = "tiny 125m 350m 1b 3b 7b 13b 70b llama3_8b llama3_70b dense_175b "
    names += "tiny_moe qwen3_30b_a3b"
    assert {path.stem for path in PRESETS} == set(names.split())


def test_dense_175b_is_what_it_is_called():
    config = preset("dense_175b")
    assert num_parameters(config) >= 175e9
    assert config.num_kv_heads < config.num_heads and config.head_dim == 128
    assert config.vocab_size >= 128_000 and config.max_seq_len >= 200_000


def test_llama3_8b_has_the_published_number_of_parameters():
    assert num_parameters(preset("llama3_8b")) == 8_030_261_248
    assert num_parameters(preset("llama3_70b")) == 70_553_706_496


def test_qwen3_30b_a3b_is_what_it_is_called():
    config = preset("qwen3_30b_a3b")
    assert num_parameters(config) == 30_532_122_624
    assert num_active_parameters(config) == 3_353_032_704


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_counts_equal_the_built_model(tied, qk_norm):
    config = ModelConfig(tie_embeddings=tied, qk_norm=qk_norm, head_dim=48, num_kv_heads=3)
    model = build(config)
    assert num_parameters(config) == sum(p.numel() for p in model.parameters())
    matrices = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    head = config.vocab_size * config.dim if tied else 0  # the look-up's matrix multiplies too
    assert matmul_parameters(config) == sum(p.numel() for p in matrices) + head


def test_counts_of_experts_are_those_of_the_built_model():
    moe = MoeConfig(num_experts=5, num_shared_experts=2, ffn_dim=48, num_dense_layers=2)
    config = ModelConfig(moe=moe)
    model = build(config)
    assert num_parameters(config) == sum(p.numel() for p in model.parameters())
    idle = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name) * 3 // 5
    assert num_active_parameters(config) == num_parameters(config) - idle
    used = num_active_parameters(config) - matmul_parameters(config)
    assert used == sum(p.numel() for name, p in model.named_parameters() if "norm" in name)


@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
def test_flops_count_each_visible_key_once(window):
    config = ModelConfig(window=window)
    seq_len = 16
    distance = torch.arange(seq_len)[:, None] - torch.arange(seq_len)
    visible = int(((distance >= 0) & (distance < (window or seq_len))).sum())
    assert mean_context(seq_len, window) == visible / seq_len
    pairs = visible * config.num_layers * config.num_heads  # of a query head and a key
    attention = 3 * 2 * 2 * config.head_dim * pairs  # thrice; two matmuls; multiply and add
    expected = 6 * matmul_parameters(config) * seq_len + attention
    assert flops_per_token(config, seq_len) * seq_len == pytest.approx(expected, rel=1e-12)


def test_flops_agree_with_the_counter_of_torch():
    """torch's counter sees every matmul of the reference ops, masked keys included."""
    from torch.utils.flop_counter import FlopCounterMode

    from megafm import ops

    config = ModelConfig(vocab_size=64, num_layers=2)
    model = build(config)
    tokens = torch.randint(64, (1, 32))
    reference = dict(attention="reference", linear_cross_entropy="reference")
    with ops.use(**reference), FlopCounterMode(display=False) as counter:
        model.loss(tokens, tokens).backward()
    whole = 6 * matmul_parameters(config) + 12 * config.num_layers * config.q_dim * 32
    assert counter.get_total_flops() == whole * 32
    assert flops_per_token(config, 32) < whole


def preset(name: str) -> ModelConfig:
    return from_dict(
        ModelConfig, yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
    )

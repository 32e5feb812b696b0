"""A Llama decoder as nanoGPT would write it: one short file of plain PyTorch on torch's own ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from megafm.model import ModelConfig


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, kv_dim, ffn_dim = config.dim, config.kv_dim, config.ffn_dim
        self.norm_1 = nn.RMSNorm(dim, config.norm_eps)
        self.norm_2 = nn.RMSNorm(dim, config.norm_eps)
        self.qkv = nn.Linear(dim, config.q_dim + 2 * kv_dim, bias=False)
        self.out = nn.Linear(config.q_dim, dim, bias=False)
        self.gate = nn.Linear(dim, ffn_dim, bias=False)
        self.up = nn.Linear(dim, ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        config = self.config
        widths = (config.q_dim, config.kv_dim, config.kv_dim)
        projected = self.qkv(self.norm_1(x)).split(widths, dim=-1)
        # (batch, heads, seq, head_dim)
        q, k, v = (y.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for y in projected)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        grouped = config.num_heads != config.num_kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        normed = self.norm_2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class PlainDecoder(nn.Module):
    """tokens and targets (batch, seq) -> mean cross entropy."""

    def __init__(self, config: ModelConfig, seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(torch.arange(seq_len), config.rope_base**-pairs)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config.init_std)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

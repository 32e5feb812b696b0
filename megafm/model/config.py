"""The shape of a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megafm.ops import RopeScaling


@dataclass(frozen=True)
class MoeConfig:
    """A mixture of experts in place of the feed-forward: each token goes to a few of many.

    Attributes:
        num_experts: SwiGLU feed-forwards that tokens are routed to.
        num_experts_per_token: how many of them compute a token (top-k).
        ffn_dim: hidden width of one expert.
        num_shared_experts: experts that compute every token besides, as one feed-forward of
            num_shared_experts * ffn_dim (DeepSeekMoE, arXiv:2401.06066).
        num_dense_layers: the first layers, which have the feed-forward of model.ffn_dim instead.
        scoring: softmax over the experts, or a sigmoid of each (DeepSeek-V3, arXiv:2412.19437).
        normalize_weights: the weights of a token's experts sum to 1.
        weight_scale: a factor on those weights (DeepSeek-V3's routed scaling factor).
        aux_loss: coefficient of the load-balancing loss, see megafm/model/router.py; 0 is none.
        bias_update_rate: of the bias that balances load without a loss (arXiv:2408.15664); 0 is no
            such bias.
    """

    num_experts: int = 8
    num_experts_per_token: int = 2
    ffn_dim: int = 256
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalize_weights: bool = True
    weight_scale: float = 1.0
    aux_loss: float = 0.0
    bias_update_rate: float = 0.0

    def __post_init__(self) -> None:
        for field, working in _POSITIVE_MOE.items():
            if getattr(self, field) <= 0:
                _fail(f"moe.{field}", getattr(self, field), "must be positive", working)
        for field in ("num_shared_experts", "num_dense_layers", "aux_loss", "bias_update_rate"):
            if getattr(self, field) < 0:
                _fail(f"moe.{field}", getattr(self, field), "must not be negative", 0)
        if self.num_experts_per_token > self.num_experts:
            why = f"more than model.moe.num_experts={self.num_experts}"
            _fail("moe.num_experts_per_token", self.num_experts_per_token, why, self.num_experts)


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder; the defaults are a small one.

    Attributes:
        vocab_size: rows of the embedding; at least the tokenizer's vocabulary.
        dim: width of the residual stream.
        num_heads, num_kv_heads: query heads, and the key/value heads that groups of them share
            (GQA, arXiv:2305.13245). num_kv_heads = num_heads is plain multi-head attention.
        head_dim: width of one head; num_heads * head_dim need not equal dim.
        ffn_dim: hidden width of the SwiGLU feed-forward.
        moe: a mixture of experts in place of the feed-forward; None is none.
        max_seq_len: rows of the rotary tables, the longest sequence with its cache, in tokens.
        rope_base: base of the rotary wavelengths (theta).
        norm_eps: added to the mean square in RMSNorm.
        qk_norm: RMSNorm over each query and key head before the rotation (Qwen3).
        window: a token sees itself and the window - 1 tokens before it; None sees all.
        tie_embeddings: the output head is the embedding.
        init_std: standard deviation of the initial weights; projections back into the residual
            stream have init_std / sqrt(2 num_layers) (GPT-2).
    """

    vocab_size: int = 4096
    dim: int = 192
    num_layers: int = 6
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 32
    ffn_dim: int = 512
    max_seq_len: int = 2048
    rope_base: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    qk_norm: bool = False
    window: int | None = None
    tie_embeddings: bool = True
    init_std: float = 0.02
    moe: MoeConfig | None = None

    def __post_init__(self) -> None:
        for field, working in _POSITIVE.items():
            value = getattr(self, field)
            if value is not None and value <= 0:
                _fail(field, value, "must be positive", working)
        if self.num_heads % self.num_kv_heads:
            works = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            nearest = min(works, key=lambda n: abs(n - self.num_kv_heads))
            why = f"must divide model.num_heads={self.num_heads}"
            _fail("num_kv_heads", self.num_kv_heads, why, nearest)
        if self.head_dim % 2:
            why = "must be even, rotary embeddings turn pairs"
            _fail("head_dim", self.head_dim, why, self.head_dim + 1)
        if self.moe is not None and self.moe.num_dense_layers >= self.num_layers:
            why = f"leaves none of model.num_layers={self.num_layers} to the experts"
            dense = self.moe.num_dense_layers
            _fail("moe.num_dense_layers", dense, why, self.num_layers - 1)

    @property
    def num_dense_layers(self) -> int:
        """Layers whose feed-forward is dense, the first ones."""
        return self.num_layers if self.moe is None else self.moe.num_dense_layers

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_kv_heads * self.head_dim


# Fields that must be positive, each with a value that works.
_POSITIVE = {
    "vocab_size": 4096,
    "dim": 192,
    "num_layers": 6,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 32,
    "ffn_dim": 512,
    "max_seq_len": 2048,
    "rope_base": 10000.0,
    "norm_eps": 1e-5,
    "window": "null",
    "init_std": 0.02,
}
_POSITIVE_MOE = {
    "num_experts": 8,
    "num_experts_per_token": 2,
    "ffn_dim": 256,
    "weight_scale": 1.0,
}


def _fail(field: str, value: object, why: str, working: object) -> None:
    raise ValueError(f"model.{field}={value}: {why}; set model.{field}={working}")

"""The shape of a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from megafm.ops import RopeScaling


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


def _fail(field: str, value: object, why: str, working: object) -> None:
    raise ValueError(f"model.{field}={value}: {why}; set model.{field}={working}")

"""The shape of a decoder. No torch here: planning and --help read it without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

ROPE_KINDS = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched to reach beyond the length a model was trained at.

    Attributes:
        kind: "linear" (position interpolation, arXiv:2306.15595), "llama3" (Llama 3.1) or "yarn"
            (arXiv:2309.00071).
        factor: the new context length over `original_max_seq_len`.
        original_max_seq_len: the context length of the first training, in tokens.
        low_freq_factor, high_freq_factor: llama3; wavelengths longer than original_max_seq_len /
            low_freq_factor are stretched, those shorter than / high_freq_factor kept.
        beta_fast, beta_slow: yarn; rotations over the original context between which to blend.
        attention_factor: yarn; multiplies cos and sin; None is the paper's 0.1 ln(factor) + 1.
    """

    kind: str = "llama3"
    factor: float = 8.0
    original_max_seq_len: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            _fail("rope_scaling.kind", self.kind, "not a known kind", ROPE_KINDS[1])
        if self.factor < 1:
            _fail("rope_scaling.factor", self.factor, "must be at least 1", 1.0)
        if self.original_max_seq_len < 1:
            value = self.original_max_seq_len
            _fail("rope_scaling.original_max_seq_len", value, "must be positive", 8192)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            why = f"must exceed model.rope_scaling.low_freq_factor={self.low_freq_factor}"
            value = 4 * self.low_freq_factor
            _fail("rope_scaling.high_freq_factor", self.high_freq_factor, why, value)
        if self.kind == "yarn" and self.beta_fast <= self.beta_slow:
            why = f"must exceed model.rope_scaling.beta_slow={self.beta_slow}"
            _fail("rope_scaling.beta_fast", self.beta_fast, why, 32 * self.beta_slow)


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder; the defaults are the preset `tiny`.

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

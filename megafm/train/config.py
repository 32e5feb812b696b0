"""The schema of a training run: every field and its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from megafm.data.config import TrainingData
from megafm.model.config import ModelConfig
from megafm.ops import OpsConfig
from megafm.parallel.activation_checkpointing import MODES
from megafm.parallel.mesh import ParallelConfig
from megafm.paths import RunDir, TokenizerDir


@dataclass(frozen=True)
class TrainConfig:
    """
    Attributes:
        steps: optimizer steps of the whole run.
        seed: of the initial weights and of the sample order.
        seq_len: tokens of context in a training sample.
        global_batch_size: samples per optimizer step over all ranks.
        micro_batch_size: samples per forward pass on one rank; the rest is accumulated.
        precision: auto, fp32 or bf16 (autocast; parameters stay fp32).
        activation_checkpointing: none, selective (matmuls and attention are kept, the rest of a
            layer's activations computed again in the backward pass) or full (the whole layer is);
            a list is repeated over the layers: [full,none] is every second one.
        eval_every: steps between evaluations on the validation shard; 0 is never.
        eval_tokens: validation tokens per evaluation, always the same ones.
    """

    steps: int = 1000
    seed: int = 1234
    seq_len: int = 256
    global_batch_size: int = 32
    micro_batch_size: int = 16
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    activation_checkpointing: str | tuple[str, ...] = "none"
    eval_every: int = 100
    eval_tokens: int = 131_072

    def __post_init__(self) -> None:
        for name in ("steps", "seq_len", "global_batch_size", "micro_batch_size", "eval_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)}: must be at least 1")
        if self.eval_every < 0:
            raise ValueError(f"train.eval_every={self.eval_every}: set 0 for never, or more")
        for mode in self.recomputed or ("",):
            if mode not in MODES:
                raise ValueError(
                    f"train.activation_checkpointing={self.activation_checkpointing}: set one of "
                    f"{', '.join(MODES)}, or a list of them that is repeated over the layers"
                )

    @property
    def recomputed(self) -> tuple[str, ...]:
        """activation_checkpointing as a list."""
        modes = self.activation_checkpointing
        return (modes,) if isinstance(modes, str) else modes


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for the matrices inside the
    layers and AdamW for the rest; matrices decay, norms do not.

    Attributes:
        momentum: of Muon.
        clip_grad_norm: the global gradient norm is scaled down to this; 0 is no clipping.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    clip_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr={self.lr}: must be a number above 0; set optim.lr=1e-3")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas={list(self.betas)}: each in [0, 1); set [0.9,0.95]")
        if not 0 < self.momentum < 1:
            raise ValueError(f"optim.momentum={self.momentum}: must be between 0 and 1; set 0.95")
        for name in ("eps", "weight_decay", "clip_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"optim.{name}={getattr(self, name)}: must be a number, not negative"
                )


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: linear warmup, then `decay` to `min_lr_ratio` of the peak.

    Attributes:
        decay_steps: the last steps over which it decays; None is all after the warmup (with less
            it stays at the peak in between: warmup-stable-decay).
    """

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 50
    decay_steps: int | None = None
    min_lr_ratio: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps={self.warmup_steps}: must not be negative")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(
                f"schedule.decay_steps={self.decay_steps}: set schedule.decay_steps=null for all "
                "after the warmup, or at least 1"
            )
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"schedule.min_lr_ratio={self.min_lr_ratio}: must be in [0, 1]")


@dataclass(frozen=True)
class CheckpointConfig:
    """
    Attributes:
        every: steps between checkpoints; the last step is always saved.
        keep: how many checkpoints stay on disk.
        asynchronous: write while training goes on, from a copy in host memory; an error in writing
            ends the run at the next checkpoint.
    """

    every: int = 200
    keep: int = 2
    asynchronous: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoint.{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class LoggingConfig:
    """
    Attributes:
        every: steps between lines on a terminal that cannot show live progress.
        tensorboard: write RUN/tensorboard/ beside metrics.jsonl.
    """

    every: int = 20
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"logging.every={self.every}: must be at least 1")


@dataclass(frozen=True)
class TrainJob:
    """`megafm train`: the groups it is composed of."""

    what: str = "pretrain a model on token shards; run it again to continue"
    device: str = "auto"
    run: RunDir = field(default_factory=lambda: RunDir("runs/train"))
    data: TrainingData = field(default_factory=TrainingData)
    tokenizer: TokenizerDir = field(default_factory=TokenizerDir)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)

    def __post_init__(self) -> None:
        if self.train.seq_len > self.model.max_seq_len:
            raise ValueError(
                f"train.seq_len={self.train.seq_len}: longer than model.max_seq_len="
                f"{self.model.max_seq_len}; set model.max_seq_len={self.train.seq_len}"
            )
        if len(self.train.recomputed) > self.model.num_layers:
            raise ValueError(
                f"train.activation_checkpointing: {len(self.train.recomputed)} modes are more than "
                f"model.num_layers={self.model.num_layers}; give at most one a layer"
            )
        warmup, decay = self.schedule.warmup_steps, self.schedule.decay_steps
        if decay is not None and warmup + decay > self.train.steps:
            raise ValueError(
                f"schedule.decay_steps={decay}: with schedule.warmup_steps={warmup} more than "
                f"train.steps={self.train.steps}; set schedule.decay_steps=null"
            )

"""A rank of one provider: it takes training steps when its parent asks for them.

A step is what `megafm train` does (megafm.train.loop.train_step) and what the others' scripts do:
forward, backward, clipping of the global gradient norm, AdamW, and a look at the loss.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import worker
from benchmarks.train import profile
from benchmarks.train.providers import COMPILED, FULL, OURS, QUICK, make
from megafm.parallel import world
from megafm.train.config import OptimConfig
from megafm.train.optimizer import build_optimizer, clip_grad_norm


class Trainer:
    def build(self, name: str, dtype: str, quick: bool) -> int:
        """Returns the number of parameters."""
        torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
        self.size = QUICK if quick else FULL
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16")
        self.model = make(name, self.size)
        self.loss: nn.Module = self.model
        if name.endswith(COMPILED):
            self.loss = torch.compile(self.model, dynamic=False)
        if world.world_size() > 1:
            dist.init_process_group("gloo")
            self.loss = DistributedDataParallel(self.loss, gradient_as_bucket_view=True)
        config = OptimConfig()
        self.ours = name == OURS
        parameters = list(self.model.parameters())
        if self.ours:
            self.optimizer: Any = build_optimizer(dict(self.model.named_parameters()), config)
        else:
            options = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
            self.optimizer = torch.optim.AdamW(parameters, **options, fused=True)
        self.max_norm = config.clip_grad_norm
        vocab, share = self.size.model.vocab_size, self.size.batch // world.world_size()
        generator = torch.Generator().manual_seed(world.rank())
        windows = torch.randint(vocab, (share, self.size.seq_len + 1), generator=generator)
        self.batch = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        return sum(parameter.numel() for parameter in parameters)

    def step(self) -> dict[str, float]:
        """Seconds of one step, and its loss on this rank."""
        if world.world_size() > 1:
            dist.barrier()
        start = worker.clock()
        loss = self._step()
        return {"seconds": worker.clock() - start, "loss": loss}

    def _step(self) -> float:
        with self.autocast:
            loss = self.loss(*self.batch)
        loss.backward()
        if self.ours:
            clip_grad_norm(self.model, self.max_norm)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def profile(self) -> dict[str, Any]:
        """Where the time of a step goes."""
        return profile.measure(self._step)


if __name__ == "__main__":
    trainer = Trainer()
    worker.serve({"build": trainer.build, "step": trainer.step, "profile": trainer.profile})

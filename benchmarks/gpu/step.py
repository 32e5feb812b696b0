"""Training steps of a model of a billion parameters: ours, or plain PyTorch's, in this process.

    python -m benchmarks.gpu.step NAME OUT.json [device=cpu] [quick]

NAME is `megafm` (the backends that auto picks), `megafm BACKEND` (every op on it that has it),
`plain` or `plain compiled`: the same model on torch's own ops (benchmarks/train/decoder.py). A step
is forward and backward under bf16 autocast, clipping of the gradient norm, and AdamW on fp32.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from benchmarks.machine import ROOT, provenance
from benchmarks.train.decoder import PlainDecoder
from benchmarks.train.providers import COMPILED, OURS, QUICK, Mean, Size
from megafm import ops
from megafm.device import peak_flops, resolve_device
from megafm.files import write_text
from megafm.model import ModelConfig, build, flops_per_token
from megafm.train.config import OptimConfig
from megafm.train.optimizer import build_optimizer, clip_grad_norm

PRESET = ROOT / "hydra_conf" / "model" / "1b.yaml"
SEQ_LEN, BATCH = 4096, 4
WARM_UP, STEPS = 3, 12
PLAIN = "plain"


def main() -> None:
    name, out, *rest = sys.argv[1:]
    device = resolve_device("cpu" if "device=cpu" in rest else "cuda")
    size = QUICK if "quick" in rest else full()
    result = provenance(device) | {"name": name} | measure(name, size, device)
    write_text(Path(out), json.dumps(result, indent=1) + "\n")
    share = "n/a" if result["mfu"] is None else f"{result['mfu']:.1%}"
    print(f"{name}: {result['tokens_per_s']:,.0f} tokens/s, MFU {share}")


def full() -> Size:
    config = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    return Size(ModelConfig(**config), SEQ_LEN, BATCH)


def measure(name: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Median seconds of a step, and what follows from it; memory in bytes, None on a CPU."""
    with choice(name):
        step, num_parameters = trainer(name, size, device)
        losses = [step() for _ in range(WARM_UP)]
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            losses.append(step())  # waits for the device: it looks at the loss
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    tokens = size.batch * size.seq_len
    flops = flops_per_token(size.model, size.seq_len) * tokens
    peak = peak_flops(device, torch.bfloat16)
    on_gpu = device.type == "cuda"
    return {
        "parameters": num_parameters,
        "tokens_per_step": tokens,
        "seq_len": size.seq_len,
        "seconds": seconds,
        "losses": losses,
        "tokens_per_s": tokens / median,
        "flops_per_step": flops,
        "peak_flops": peak,
        "mfu": flops / median / peak if peak else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def choice(name: str) -> contextlib.AbstractContextManager[None]:
    """The backends of a run of ours.

    Raises:
        ValueError: no op can run on the backend here; the reason of one.
    """
    backend = name.removeprefix(OURS).strip()
    if not name.startswith(OURS) or not backend:
        return contextlib.nullcontext()
    found = {op: state.why_not[backend] for op, state in ops.backends().items()}
    able = [op for op, reason in found.items() if reason is None]
    if not able:
        raise ValueError(f"{name}: nothing runs on {backend} here: {found['rms_norm']}")
    return ops.use(**dict.fromkeys(able, backend))


def trainer(name: str, size: Size, device: torch.device) -> tuple[Callable[[], float], int]:
    """A function that takes a step and gives its loss, and the number of parameters."""
    torch.manual_seed(0)
    with device:
        ours = name.startswith(OURS)
        model = Mean(build(size.model)) if ours else PlainDecoder(size.model, size.seq_len)
        windows = torch.randint(size.model.vocab_size, (size.batch, size.seq_len + 1))
    model.to(device)
    loss_of: nn.Module = model
    if name.endswith(COMPILED):
        loss_of = torch.compile(model, dynamic=False)
    config = OptimConfig()
    parameters = dict(model.named_parameters())
    if ours:
        optimizer: torch.optim.Optimizer = build_optimizer(parameters, config)
    else:
        options = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
        optimizer = torch.optim.AdamW(list(parameters.values()), **options, fused=True)
    batch = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(*batch)
        loss.backward()
        if ours:
            clip_grad_norm(model, config.clip_grad_norm)
        else:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, sum(parameter.numel() for parameter in parameters.values())


if __name__ == "__main__":
    main()

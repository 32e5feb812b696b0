"""Every way to use two ranks of one core each on this machine, against one rank.

    python -m benchmarks.parallel.scaling [ROUNDS]

Data-parallel ranks take as many samples a step as one rank does (weak scaling); ranks that split
the model share them. The variants take turns in each round, and medians are compared. `one` is a
rank with the other core idle; `apart` are two ranks that never talk, so what they lose against
`one` is the memory and the power that cores share. What a layout loses against `apart` is counted
as communication: for tp that includes its narrower products, for pp its bubble. Writes
benchmarks/results/parallel/scaling_DEVICE.json.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.machine import provenance, slug, write_result
from megafm.device import keep_freed_memory
from megafm.model import ModelConfig
from megafm.parallel import world
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.pipeline import Pipeline
from megafm.train.assemble import Assembly, assemble
from megafm.train.config import OptimConfig
from megafm.train.optimizer import clip_grad_norm

WORLD = 2
CPU = torch.device("cpu")
MODEL = ModelConfig(  # about 11 million parameters
    vocab_size=4096, dim=384, num_layers=6, num_heads=6, num_kv_heads=2, head_dim=64, ffn_dim=1024,
    max_seq_len=512,
)  # fmt: skip
BATCH, SEQ = 4, 256  # of a rank
LAYOUTS = {
    "ddp": ParallelConfig(dp_replicate=2),
    "zero1": ParallelConfig(dp_replicate=1, dp_shard=2, zero=1),
    "zero2": ParallelConfig(dp_replicate=1, dp_shard=2, zero=2),
    "fsdp": ParallelConfig(dp_replicate=1, dp_shard=2),
    "tp": ParallelConfig(dp_replicate=1, tp=2),
    "cp": ParallelConfig(dp_replicate=1, cp=2, zero=1),
    "pp": ParallelConfig(dp_replicate=1, pp=2),
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29571", WORLD_SIZE=str(WORLD), OMP_NUM_THREADS="1"
    )
    answers = mp.get_context("spawn").SimpleQueue()
    mp.spawn(measure, args=(rounds, answers), nprocs=WORLD)
    seconds = {name: statistics.median(times) for name, times in answers.get().items()}
    result = provenance(CPU) | {
        "tokens_per_rank_and_step": BATCH * SEQ,
        "rounds": rounds,
        "cases": list(cases(seconds)),
    }
    for case in result["cases"]:
        print("  ".join(f"{key} {value}" for key, value in case.items()))
    write_result(f"parallel/scaling_{slug(CPU)}", result)


def measure(rank: int, rounds: int, answers: Any) -> None:
    """What every rank does; rank 0 answers with the seconds of a step by variant and round."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randint(0, MODEL.vocab_size, (BATCH, SEQ + 1), generator=generator)
    with world.process_group(CPU, 600.0):
        variants = {"one": assembled(None), "apart": assembled(None)}
        variants |= {name: assembled(layout) for name, layout in LAYOUTS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for counted in range(-1, rounds):  # the first round warms up
            for name, variant in variants.items():
                dist.barrier()
                started = time.perf_counter()
                if name != "one" or rank == 0:
                    step(variant, tokens)
                dist.barrier()
                if counted >= 0:
                    seconds[name].append(time.perf_counter() - started)
        if rank == 0:
            answers.put(seconds)


def assembled(parallel: ParallelConfig | None) -> Assembly:
    mesh = None if parallel is None else build_mesh(parallel, "cpu")
    return assemble(
        MODEL,
        OptimConfig(),
        parallel or ParallelConfig(),
        mesh,
        device=CPU,
        precision=torch.float32,
        recomputed=("none",),
        seq_len=SEQ,
        seed=0,
    )


def step(variant: Assembly, tokens: torch.Tensor) -> None:
    samples = tokens.split(1) if isinstance(variant.passes, Pipeline) else [tokens]
    micro_batches = [(sample[:, :-1], sample[:, 1:]) for sample in samples]
    variant.passes.backward(micro_batches, torch.tensor(tokens.numel()))
    clip_grad_norm(variant.model, 1.0)
    variant.optimizer.step()
    variant.model.zero_grad(set_to_none=True)


def cases(seconds: dict[str, float]) -> Iterator[dict[str, Any]]:
    for name, median in seconds.items():
        ranks = 1 if name == "one" else WORLD
        layout = LAYOUTS.get(name)
        model_ranks = layout.tp * layout.cp * layout.pp if layout else 1
        batches = ranks // model_ranks  # of BATCH samples
        yield {
            "variant": name,
            "ranks": ranks,
            "tokens_per_s": round(batches * BATCH * SEQ / median),
            "times_one_rank": round(batches * seconds["one"] / median, 3),
            "efficiency": round(batches * seconds["one"] / median / ranks, 3),
            "communication_share": round(max(0.0, 1 - seconds["apart"] / model_ranks / median), 3)
            if layout
            else None,
        }


if __name__ == "__main__":
    main()

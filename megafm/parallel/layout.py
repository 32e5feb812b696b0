"""The one place where a layout is checked, before anything starts: against the world, the model,
the sequence and the batch."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Protocol

import torch

from megafm.parallel.mesh import AXES, DATA_AXES, ParallelConfig, gathers_for_backward


class MoeShape(Protocol):
    @property
    def num_experts(self) -> int: ...
    @property
    def num_shared_experts(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...


class ModelShape(Protocol):
    """What of a model a layout has to fit; a ModelConfig is one."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def kv_dim(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def num_dense_layers(self) -> int: ...
    @property
    def moe(self) -> MoeShape | None: ...


def resolve_layout(
    parallel: ParallelConfig, world_size: int, model: ModelShape, seq_len: int
) -> ParallelConfig:
    """Fill in the -1 and check the layout against the world, the model and the sequence.

    Raises:
        ValueError: names the field, its value and the nearest settings that work.
    """
    tp_sizes = _check_tp(parallel.tp, model, seq_len)
    cp_sizes = _check_cp(parallel, world_size, model, seq_len)
    pp_sizes = _check_pp(parallel, model.num_layers)
    parallel = _fill(parallel, world_size, {"pp": pp_sizes, "cp": cp_sizes, "tp": tp_sizes})
    if parallel.ep > 1:
        _check_ep(parallel, model)
    _check_zero(parallel, world_size)
    splits_backward = parallel.pp > 1 and parallel.schedule.splits_backward
    if splits_backward and torch.__version__ < "2.12":  # a TorchVersion
        raise ValueError(
            f"parallel.pipeline_schedule={parallel.pipeline_schedule}: torch {torch.__version__} "
            "gives wrong gradients of weights whose op has several outputs; install torch 2.12 or "
            "set parallel.pipeline_schedule=Interleaved1F1B"
        )
    return parallel


def check_micro_batches(parallel: ParallelConfig, num_samples: int, size: int) -> None:
    """Refuse a step whose microbatches the pipeline's schedule cannot order.

    Args:
        num_samples: of a data-parallel rank, in a step.
        size: samples of a microbatch.
    """
    pp, name = parallel.pp, parallel.pipeline_schedule
    if pp == 1 or parallel.schedule.fits(num_samples // size, pp):
        return
    needed = pp if parallel.schedule.interleaved else pp * parallel.stages_per_rank
    sizes = [n for n in range(1, num_samples + 1) if num_samples % n == 0]
    works = [n for n in sizes if parallel.schedule.fits(num_samples // n, pp)]
    data_ranks = parallel.dp_replicate * parallel.dp_shard
    remedy = (
        f"train.global_batch_size={-(-num_samples // (needed * size)) * needed * size * data_ranks}"
    )
    if works:
        remedy = f"train.micro_batch_size={min(works, key=lambda n: abs(n - size))} or {remedy}"
    raise ValueError(
        f"train.micro_batch_size={size}: makes {num_samples // size} microbatches of a rank's "
        f"{num_samples} samples; parallel.pipeline_schedule={name} with parallel.pp={pp} needs "
        f"{'a multiple of' if parallel.schedule.interleaved else 'at least'} {needed}; set {remedy}"
    )


def _check_tp(tp: int, model: ModelShape, seq_len: int) -> list[int]:
    """Refuse a `tp` that does not fit the model; returns those that do."""
    divided = {
        "model.num_heads": model.num_heads,
        "model.num_kv_heads x model.head_dim": model.kv_dim,
        "model.vocab_size": model.vocab_size,
        "train.seq_len": seq_len,
    }
    if model.num_dense_layers:
        divided["model.ffn_dim"] = model.ffn_dim
    if model.moe is not None:  # the routed experts stay whole
        shared = model.moe.num_shared_experts * model.moe.ffn_dim
        divided["model.moe.num_shared_experts x model.moe.ffn_dim"] = shared
    kv = model.num_kv_heads  # each rank has whole ones, or each is shared by whole ranks

    def fits(n: int) -> bool:
        return all(value % n == 0 for value in divided.values()) and (kv % n == 0 or n % kv == 0)

    works = [n for n in range(1, model.num_heads + 1) if fits(n)]
    if tp in works:
        return works
    remedy = f"set {_nearest('tp', tp, works)}"
    for field, value in divided.items():
        if value % tp:
            if field in ("model.vocab_size", "train.seq_len"):
                remedy += f" or {field}={-(-value // tp) * tp}"
            raise ValueError(f"parallel.tp={tp}: does not divide {field}={value}; {remedy}")
    raise ValueError(
        f"parallel.tp={tp}: neither divides nor is a multiple of model.num_kv_heads={kv}; {remedy}"
    )


def _check_cp(
    parallel: ParallelConfig, world_size: int, model: ModelShape, seq_len: int
) -> list[int]:
    """Refuse a `cp` that does not fit; returns those that do. Each rank has two chunks of every
    sequence, which its ranks of tp share evenly."""
    cp, tp, method = parallel.cp, parallel.tp, parallel.cp_attention
    if cp == 1 and method != "ring":
        warnings.warn(f"parallel.cp_attention={method}: no effect with parallel.cp=1", stacklevel=3)
    heads, kv = model.num_heads // tp, max(1, model.num_kv_heads // tp)  # of a rank of tp

    def divides_tokens(n: int) -> bool:
        return n == 1 or seq_len % (n * math.lcm(2, tp)) == 0

    def divides_heads(n: int) -> bool:
        shares_kv = kv % n == 0 or n % kv == 0
        return method != "ulysses" or (heads % n == 0 and shares_kv)

    works = [n for n in range(1, max(cp, world_size) + 1) if divides_tokens(n) and divides_heads(n)]
    if cp in works:
        return works
    remedy = f"set {_nearest('cp', cp, works)}"
    if not divides_tokens(cp):
        multiple = cp * math.lcm(2, tp)
        raise ValueError(
            f"parallel.cp={cp}: train.seq_len={seq_len} is not a multiple of {multiple} (two parts "
            f"a rank, with parallel.tp={tp}); {remedy} or "
            f"train.seq_len={-(-seq_len // multiple) * multiple}"
        )
    raise ValueError(
        f"parallel.cp={cp}: parallel.cp_attention=ulysses spreads the {heads} heads and {kv} "
        f"key/value heads of a rank of tp over as many ranks; {remedy} or "
        "parallel.cp_attention=ring"
    )


def _check_ep(parallel: ParallelConfig, model: ModelShape) -> None:
    """Refuse an `ep` that does not fit the experts or the ranks of a layout that is filled in."""
    ep = parallel.ep
    if model.moe is None:
        raise ValueError(f"parallel.ep={ep}: model.moe=null has no experts; set parallel.ep=1")
    if parallel.zero == 1:
        raise ValueError(
            f"parallel.zero=1: keeps all parameters on every rank, which parallel.ep={ep} does "
            "not; set parallel.zero=2"
        )
    num_experts, ranks = model.moe.num_experts, parallel.dp_shard * parallel.cp * parallel.tp
    works = [n for n in range(1, num_experts + 1) if num_experts % n == ranks % n == 0]
    remedy = f"set {_nearest('ep', ep, works)}"
    if num_experts % ep:
        why = f"model.moe.num_experts={num_experts}"
        raise ValueError(f"parallel.ep={ep}: does not divide {why}; {remedy}")
    if ranks % ep:
        if ranks * parallel.dp_replicate % ep == 0:
            remedy += " or parallel.dp_replicate=1 parallel.dp_shard=-1"
        raise ValueError(
            f"parallel.ep={ep}: does not divide dp_shard x cp x tp={ranks}, the ranks it regroups; "
            f"{remedy}"
        )


def _check_zero(parallel: ParallelConfig, world_size: int) -> None:
    """Refuse a `zero` that does not go with the other axes of a layout that is filled in."""
    zero, ranks = parallel.zero, parallel.dp_shard * parallel.cp
    if zero == 1 and ranks == 1 and world_size > 1:
        remedy = "parallel.dp_replicate=1 and parallel.dp_shard=-1 or "
        can_shard = parallel.dp_replicate > 1 and parallel.tp == parallel.pp == 1  # see below
        raise ValueError(
            "parallel.zero=1: shards the optimizer state over parallel.dp_shard=1 ranks; "
            f"set {remedy if can_shard else ''}parallel.zero=3"
        )
    if zero < 3 and ranks == 1:
        warnings.warn(
            f"parallel.zero={zero}: no effect with parallel.dp_shard=1 and parallel.cp=1",
            stacklevel=3,
        )
    if zero == 1 and parallel.tp > 1:
        raise ValueError(
            f"parallel.zero=1: steps rows of whole parameters, which parallel.tp={parallel.tp} "
            "shards; set parallel.zero=2"
        )
    if zero == 1 and parallel.pp > 1:
        raise ValueError(
            f"parallel.zero=1: needs one backward pass a step, parallel.pp={parallel.pp} has one "
            "for each microbatch; set parallel.zero=2"
        )
    if zero == 3 and ranks > 1 and not gathers_for_backward(parallel):
        raise ValueError(
            f"parallel.zero=3: parallel.pipeline_schedule={parallel.pipeline_schedule} keeps "
            "parameters from the forward pass to the gradients of the weights; set parallel.zero=2 "
            "or parallel.pipeline_schedule=Interleaved1F1B"
        )


def _check_pp(parallel: ParallelConfig, num_layers: int) -> list[int]:
    """Refuse more stages than the model has layers; returns the sizes of `pp` that fit."""
    pp, stages_per_rank = parallel.pp, parallel.stages_per_rank
    if pp == 1:
        for name in ("pipeline_schedule", "pipeline_stages_per_rank"):
            value = getattr(parallel, name)
            if value not in ("1F1B", None):
                warnings.warn(
                    f"parallel.{name}={value}: no effect with parallel.pp=1", stacklevel=3
                )
        return list(range(1, num_layers // stages_per_rank + 1)) or [1]
    if pp * stages_per_rank > num_layers:
        works = max(1, num_layers // stages_per_rank)
        raise ValueError(
            f"parallel.pp={pp}: its {pp * stages_per_rank} stages "
            f"(parallel.pipeline_schedule={parallel.pipeline_schedule}) are more than "
            f"model.num_layers={num_layers}; set parallel.pp={works} or "
            f"model.num_layers={pp * stages_per_rank}"
        )
    return list(range(1, num_layers // stages_per_rank + 1))


def _fill(
    parallel: ParallelConfig, world_size: int, sizes_that_fit: dict[str, list[int]]
) -> ParallelConfig:
    sizes = {name: getattr(parallel, name) for name in AXES}
    free = next((name for name, size in sizes.items() if size == -1), None)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free is not None and world_size % fixed == 0:
        return dataclasses.replace(parallel, **{free: world_size // fixed})
    if fixed == world_size:
        return parallel
    product = " x ".join(f"{name}={size}" for name, size in sizes.items() if size not in (1, -1))
    allowed = {name: list(range(1, world_size + 1)) for name in DATA_AXES} | sizes_that_fit
    remedies = []
    for name, candidates in allowed.items():
        ranks = fixed // sizes[name]  # without this axis
        works = [n for n in candidates if world_size % (n * ranks) == 0]
        if free is None:
            works = [n for n in works if n * ranks == world_size]
        if works and name != free:
            remedies.append(_nearest(name, sizes[name], works))
    enough = fixed if free is None else max(fixed, world_size // fixed * fixed)
    remedies = [f"set {', or '.join(remedies)}"] if remedies else []
    remedies.append(f"start `torchrun --nproc-per-node {enough}` (plan: world_size={enough})")
    raise ValueError(
        f"parallel {product or 'with every axis 1'}: needs "
        f"{f'{fixed} ranks' if free is None else f'a multiple of {fixed} ranks'}, the world has "
        f"{world_size}; {', or '.join(remedies)}"
    )


def _nearest(name: str, size: int, works: list[int]) -> str:
    """The settings next to `size`, below and above, of those that work."""
    below = [n for n in works if n < size][-1:]
    above = [n for n in works if n > size][:1]
    return " or ".join(f"parallel.{name}={n}" for n in below + above)

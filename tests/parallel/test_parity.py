"""Every layout of the table against one rank: gradients, loss curve, checkpoints.

The batch has uneven valid tokens: from rows that all count to rows without any.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from megafm import checkpoint, ops
from megafm.checkpoint import CheckpointInfo
from megafm.model import ModelConfig, MoeConfig
from megafm.parallel import world
from megafm.parallel.mesh import ParallelConfig, axis, build_mesh, counts_samples, data_share
from megafm.parallel.pipeline import MicroBatch, Pipeline
from megafm.train.assemble import Assembly, assemble
from megafm.train.config import OptimConfig
from megafm.train.optimizer import clip_grad_norm
from tests.parallel.layouts import LAYOUTS, by_world_size, world_size
from tests.ranks import RankPool

NUM_ROWS, SEQ_LEN = 4, 16
ADAMW = OptimConfig(lr=1e-2, clip_grad_norm=0.5)
MUON = replace(ADAMW, name="muon")
REFERENCE = dict.fromkeys(ops.backends(), "reference")

PLAIN = ModelConfig(
    vocab_size=64,
    dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    ffn_dim=48,
    max_seq_len=64,
)
EXPERTS = MoeConfig(
    num_experts=6,  # 3 of a rank of ep, which 2 ranks of dp_expert cannot share whole
    num_experts_per_token=2,
    ffn_dim=16,
    num_shared_experts=1,
    num_dense_layers=1,
    scoring="sigmoid",
    weight_scale=1.5,
    aux_loss=0.1,
    bias_update_rate=1e-2,
)
MOE = replace(PLAIN, moe=EXPERTS)
OTHER = replace(MOE, num_kv_heads=1, tie_embeddings=False, qk_norm=True, window=5)


@dataclass(frozen=True)
class Case:
    """A model, how it is computed, and how near one rank a layout has to come.

    Attributes:
        packed: the rows of a rank are one row, each of several documents.
        num_micro_batches: that a rank's rows are worked on in, where it has several.
        recomputed: activation checkpointing, layer by layer.
    """

    model: ModelConfig
    packed: bool
    dtype: torch.dtype
    gradients_within: float
    losses_within: float
    num_steps: int
    num_micro_batches: int = 1
    recomputed: tuple[str, ...] = ("none",)
    optim: OptimConfig = ADAMW


CASES = {
    "tied_fp64": Case(
        PLAIN, False, torch.float64, 1e-10, 1e-10, num_steps=2, num_micro_batches=2, optim=MUON
    ),
    "tied_fp32": Case(PLAIN, False, torch.float32, 1e-5, 1e-5, num_steps=3),
    "moe_fp64": Case(
        MOE, False, torch.float64, 1e-10, 1e-10, num_steps=2, num_micro_batches=2, optim=MUON
    ),
    "packed_fp64": Case(OTHER, True, torch.float64, 1e-10, 1e-10, num_steps=20),
    "packed_fp32": Case(
        OTHER, True, torch.float32, 1e-5, 1e-5, num_steps=1, recomputed=("full", "selective")
    ),
}


SAVED = "packed_fp32"  # the case whose checkpoints the layouts read
# One rank reads what every layout wrote; the others, to save time, what they wrote themselves and
# two of these in turn: rows, heads, both, experts.
WRITERS = ("fsdp2", "tp2", "hsdp2x2_tp2", "fsdp4_ep2")


@dataclass
class Outcome:
    """What a rank saw of a case.

    Attributes:
        gradients: whole, of the first step.
        losses: of every step, and of one more batch at the end.
        digests: of the whole tensors in the checkpoint at the end.
    """

    gradients: dict[str, torch.Tensor]
    losses: list[float]
    digests: dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def outcomes(folder: Path, ranks: RankPool) -> dict[tuple[str, str], list[Outcome]]:
    """By layout and case, of every rank."""
    return run_by_world_size(run_cases, folder, ranks)


@pytest.fixture(scope="module")
def read(
    outcomes: dict[tuple[str, str], list[Outcome]], folder: Path, ranks: RankPool
) -> dict[tuple[str, str], list[Outcome]]:
    """What a layout (the first of a key) makes of the checkpoint of another."""
    return run_by_world_size(read_all, folder, ranks)


def run_by_world_size(
    function: Callable[..., dict[tuple[str, str], Outcome]], folder: Path, ranks: RankPool
) -> dict[tuple[str, str], list[Outcome]]:
    found = {}
    for size, layouts in by_world_size().items():
        for first in range(0, len(layouts), 3):  # what a slow machine does in the pool's time
            by_rank = ranks.run(function, size, layouts[first : first + 3], folder)
            found |= {key: [outcomes[key] for outcomes in by_rank] for key in by_rank[0]}
    return found


def cases(layout: str) -> list[str]:
    """Those that a layout is for: with `ep`, models that have experts; on more than two ranks, to
    save time, those alone: their first layer is dense."""
    parallel = LAYOUTS[layout]
    dense_too = parallel.ep == 1 and world_size(parallel) <= 2
    return [name for name, case in CASES.items() if case.model.moe or dense_too]


PAIRS = [(layout, name) for layout in LAYOUTS if layout != "one" for name in cases(layout)]


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_gradients_and_losses_are_those_of_one_rank(
    layout: str, name: str, outcomes: dict[tuple[str, str], list[Outcome]]
) -> None:
    check_gradients_and_losses(outcomes[layout, name], outcomes["one", name][0], CASES[name])


def check_gradients_and_losses(found: list[Outcome], one: Outcome, case: Case) -> None:
    """Of every rank against one; a rank has the parameters of its stages."""
    for outcome in found:
        for parameter, gradient in outcome.gradients.items():
            expected = one.gradients[parameter]
            error = (gradient - expected).norm() / expected.norm()
            assert error < case.gradients_within, f"{parameter}: {error:.1e}"
        assert outcome.losses == pytest.approx(one.losses, rel=case.losses_within)
    assert {name for outcome in found for name in outcome.gradients} == one.gradients.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_are_read_bit_for_bit_and_the_next_loss_is_the_same(
    layout: str,
    outcomes: dict[tuple[str, str], list[Outcome]],
    read: dict[tuple[str, str], list[Outcome]],
) -> None:
    for writer in written_by(layout):
        written = outcomes[writer, SAVED]
        digests: dict[str, str] = {}  # a name of two ranks has the same bits on both, see below
        for outcome in written:
            digests |= outcome.digests
        losses = written[0].losses[-1:]
        for outcome in [*written, *read[layout, writer]]:
            assert outcome.digests.items() <= digests.items(), writer
            within = 0 if layout == writer else 1e-6
            assert outcome.losses[-1:] == pytest.approx(losses, rel=within, abs=0), writer
        assert digests.keys() == {name for r in read[layout, writer] for name in r.digests}


def run_cases(layouts: list[str], folder: Path) -> dict[tuple[str, str], Outcome]:
    """Every case in each of `layouts`, which share this world; checkpoints go to `folder`."""
    return {
        (layout, name): run_case(CASES[name], LAYOUTS[layout], mesh, folder / layout)
        for layout, mesh in meshes(layouts)
        for name in cases(layout)
    }


def read_all(layouts: list[str], folder: Path) -> dict[tuple[str, str], Outcome]:
    """In each of `layouts`, which share this world: read what others wrote."""
    case, found = CASES[SAVED], {}
    for layout, mesh in meshes(layouts):
        with case_set_up(case, LAYOUTS[layout], mesh, seed=1) as run:
            for writer in written_by(layout):
                checkpoint.load_tensors(checkpoint.latest(folder / writer), run.tensors())
                loss = backward(run, case, mesh, case.num_steps)
                found[layout, writer] = Outcome({}, [loss], digests(run))
    return found


def written_by(reader: str) -> list[str]:
    """The layouts whose checkpoints `reader` reads."""
    turn = list(LAYOUTS).index(reader)
    in_turn = {WRITERS[turn % len(WRITERS)], WRITERS[(turn + 1) % len(WRITERS)]}
    return list(LAYOUTS) if reader == "one" else sorted({reader} | in_turn)


def meshes(layouts: list[str]) -> Iterator[tuple[str, DeviceMesh | None]]:
    with world.process_group(torch.device("cpu"), timeout_s=60):
        for layout in layouts:
            yield layout, build_mesh(LAYOUTS[layout], "cpu") if world.world_size() > 1 else None


def run_case(
    case: Case, parallel: ParallelConfig, mesh: DeviceMesh | None, run_dir: Path
) -> Outcome:
    gradients: dict[str, torch.Tensor] = {}
    losses = []
    with case_set_up(case, parallel, mesh, seed=0) as run:
        for step in range(case.num_steps):
            losses.append(backward(run, case, mesh, step))
            if step == 0:
                gradients = {name: whole(p.grad) for name, p in run.model.named_parameters()}
            pp, copy = axis(mesh, "pp"), run.model.copied_weight
            clip_grad_norm(run.model, case.optim.clip_grad_norm, pp, copy)
            run.optimizer.step()
            run.model.zero_grad()
        losses.append(backward(run, case, mesh, case.num_steps))
        if case is not CASES[SAVED]:
            return Outcome(gradients, losses, {})
        info = CheckpointInfo(model=case.model, step=case.num_steps)
        checkpoint.save(run_dir, run.tensors(), info)
        return Outcome(gradients, losses, digests(run))


@contextlib.contextmanager
def case_set_up(
    case: Case, parallel: ParallelConfig, mesh: DeviceMesh | None, seed: int
) -> Iterator[Assembly]:
    exact = case.dtype == torch.float64
    before = torch.get_default_dtype()
    torch.set_default_dtype(case.dtype)
    try:
        with ops.use(**(REFERENCE if exact else {})):
            yield assemble(
                case.model,
                case.optim,
                parallel,
                mesh,
                device=torch.device("cpu"),
                precision=case.dtype,
                recomputed=case.recomputed,
                seq_len=SEQ_LEN,
                seed=seed,
            )
    finally:
        torch.set_default_dtype(before)


def backward(run: Assembly, case: Case, mesh: DeviceMesh | None, step: int) -> float:
    """Forward and backward of this rank's rows of the global batch; returns the global loss."""
    tokens, targets, starts = global_batch(step)
    num_valid = (targets != -100).sum()
    index, count = data_share(mesh)
    share = NUM_ROWS // count
    num_micro_batches = case.num_micro_batches
    if isinstance(run.passes, Pipeline):
        num_micro_batches = min(share, len(run.passes.stages))
    size = -(-share // num_micro_batches)
    micro_batches: list[MicroBatch] = []
    for first in range(index * share, (index + 1) * share, size):
        rows = slice(first, first + size)
        if case.packed:
            ends = torch.tensor([size * SEQ_LEN])
            cu_seqlens = torch.cat([starts[rows].flatten().nonzero().flatten(), ends]).int()
            packed = tokens[rows].view(1, -1), targets[rows].view(1, -1), cu_seqlens
            micro_batches.append(packed)
        else:
            micro_batches.append((tokens[rows], targets[rows]))
    total = run.passes.backward(micro_batches, num_valid)
    return world.all_reduce_sum(total * counts_samples(mesh)).item() if mesh else total.item()


def global_batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, targets and where documents start (bool), each (NUM_ROWS, SEQ_LEN)."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(PLAIN.vocab_size, (NUM_ROWS, SEQ_LEN), generator=generator)
    targets = (tokens * 7 + 3) % PLAIN.vocab_size  # something to learn
    num_valid = torch.tensor([16, 0, 3, 11])
    targets[torch.arange(SEQ_LEN) >= num_valid[:, None]] = -100
    starts = torch.rand(NUM_ROWS, SEQ_LEN, generator=generator) < 0.2
    starts[:, 0] = True
    return tokens, targets, starts


def whole(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def digests(run: Assembly) -> dict[str, str]:
    return {
        name: hashlib.sha256(whole(tensor).numpy().tobytes()).hexdigest()
        for name, tensor in run.tensors().items()
    }

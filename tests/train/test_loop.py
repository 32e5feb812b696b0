"""Runs on a small corpus: the loss falls, resumes bitwise, and is the same in any layout."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from megafm.checkpoint import checkpoints, latest, load_model
from megafm.data import TokenWindows, TrainingData
from megafm.data.config import BlendPart, TrainingStage
from megafm.parallel.mesh import ParallelConfig
from megafm.tokenizer import Tokenizer
from megafm.train.config import OptimConfig, ScheduleConfig, TrainConfig, TrainJob
from megafm.train.loop import train
from megafm.train.metrics import read_metrics
from megafm.train.run import Run, open_run
from megafm.train.stop import StopSignal
from tests.corpus import train_job
from tests.ranks import RankPool

SAME = ("step", "tokens", "loss", "grad_norm", "lr", "val_loss", "bits_per_byte")
LAYOUTS = {
    "ddp2": (2, ParallelConfig()),
    "fsdp2": (2, ParallelConfig(dp_replicate=1, dp_shard=2)),
    "zero2": (2, ParallelConfig(dp_replicate=1, dp_shard=2, zero=2)),
    "zero1": (2, ParallelConfig(dp_replicate=1, dp_shard=2, zero=1)),
    "zero1_2x2": (4, ParallelConfig(dp_replicate=2, dp_shard=2, zero=1)),
    "hsdp2x2": (4, ParallelConfig(dp_replicate=2, dp_shard=2)),
    "tp2": (2, ParallelConfig(tp=2)),
    "ddp2_tp2": (4, ParallelConfig(tp=2)),
    "cp2": (2, ParallelConfig(cp=2)),
    "pp2": (2, ParallelConfig(pp=2)),
}


def curve(run_dir: Path) -> list[dict[str, float]]:
    """What metrics.jsonl says, less the timings."""
    return [{k: v for k, v in line.items() if k in SAME} for line in read_metrics(run_dir)]


def with_train(job: TrainJob, **fields: object) -> TrainJob:
    return dataclasses.replace(job, train=dataclasses.replace(job.train, **fields))


def test_the_loss_falls_and_every_line_has_its_fields(corpus: Path, tmp_path: Path) -> None:
    job = with_train(train_job(corpus, tmp_path), steps=30, eval_every=10)
    train(job)
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 31))
    needed = {"step", "tokens", "loss", "grad_norm", "lr", "tokens_per_s", "flops_per_s"}
    assert all(needed <= line.keys() for line in lines)
    assert lines[0]["loss"] == pytest.approx(math.log(300), rel=0.02)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert [line["step"] for line in read_metrics(tmp_path) if "val_loss" in line] == [10, 20, 30]


def test_the_first_loss_is_that_of_plain_torch_in_float64(corpus: Path, tmp_path: Path) -> None:
    job = with_train(train_job(corpus, tmp_path), steps=2, eval_every=0)
    with open_run(job) as run:
        batch = TokenWindows(corpus / "data" / "train", 32, job.train.seed).batch(0, 8)
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        model = run.model.double()
        logits = model(tokens)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        expected.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    train(job)
    first = read_metrics(tmp_path)[0]
    assert first["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_bits_per_byte_counts_the_bytes_of_the_targets(corpus: Path, tmp_path: Path) -> None:
    job = with_train(train_job(corpus, tmp_path), steps=1, eval_tokens=10**9)
    train(job)
    line = next(line for line in read_metrics(tmp_path) if "val_loss" in line)
    windows = TokenWindows(corpus / "data" / "validation", 32, 0, shuffle=False)
    targets = windows.batch(0, windows.windows_per_epoch).targets
    num_bytes = sum(
        len(text.encode())
        for row in targets
        for text in Tokenizer.load(corpus / "tokenizer").decode(row.tolist()).split("<|endoftext|>")
    )
    expected = line["val_loss"] * targets.size / math.log(2) / num_bytes
    assert line["bits_per_byte"] == pytest.approx(expected, rel=1e-9)


def test_the_same_seed_gives_the_same_run_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    train(train_job(corpus, tmp_path / "a"))
    train(train_job(corpus, tmp_path / "b"))
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_stopping_and_resuming_changes_no_bit(corpus: Path, tmp_path: Path) -> None:
    train(train_job(corpus, tmp_path / "whole"))
    job = train_job(corpus, tmp_path / "parts")
    train_and_die_after(job, 4)  # one step after the checkpoint at 3, which is thus lost
    assert [c.name for c in checkpoints(tmp_path / "parts")] == ["step_00000003"]
    train(job)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    whole, _ = load_model(tmp_path / "whole")
    parts, info = load_model(tmp_path / "parts")
    assert info.step == 6
    for expected, found in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_a_finished_run_does_nothing_more(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = train_job(corpus, tmp_path)
    train(job)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    train(job)
    assert "raise train.steps to go on" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_microbatches_change_nothing_but_rounding(corpus: Path, tmp_path: Path) -> None:
    for size in (1, 8):
        train(with_train(train_job(corpus, tmp_path / str(size)), micro_batch_size=size))
    for one, eight in zip(curve(tmp_path / "1"), curve(tmp_path / "8"), strict=True):
        assert one == pytest.approx(eight, rel=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_like_one_rank(
    layout: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    world_size, parallel = LAYOUTS[layout]
    train(train_job(corpus, tmp_path / "one"))
    job = train_job(corpus, tmp_path / "many", parallel=parallel)
    ranks.run(train, world_size, with_train(job, micro_batch_size=2))
    for one, many in zip(curve(tmp_path / "one"), curve(tmp_path / "many"), strict=True):
        assert one == pytest.approx(many, rel=1e-4)
    # A checkpoint of any layout is read by one rank, which goes on from it.
    train(with_train(dataclasses.replace(job, parallel=ParallelConfig()), steps=8))
    assert read_metrics(tmp_path / "many")[-1]["step"] == 8
    train(with_train(train_job(corpus, tmp_path / "one"), steps=8))
    one, many = curve(tmp_path / "one")[-1], curve(tmp_path / "many")[-1]
    assert one == pytest.approx(many, rel=1e-4)


PACKED_LAYOUTS = {name: LAYOUTS[name] for name in ("ddp2", "cp2", "pp2")}


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_documents_of_a_blend_train_in_any_layout_and_resume_bitwise(
    layout: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    folder = str(corpus / "data")
    blend = BlendPart(folder, 0.7), BlendPart(folder, 0.3)
    data = TrainingData(folder, blend, packing="best_fit")
    train(train_job(corpus, tmp_path / "one", data=data))
    world_size, parallel = PACKED_LAYOUTS[layout]
    job = train_job(corpus, tmp_path / "many", data=data, parallel=parallel)
    ranks.run(train, world_size, with_train(job, micro_batch_size=2))
    for one, many in zip(curve(tmp_path / "one"), curve(tmp_path / "many"), strict=True):
        assert one == pytest.approx(many, rel=1e-4)
    train(with_train(train_job(corpus, tmp_path / "parts", data=data), steps=3))
    train(train_job(corpus, tmp_path / "parts", data=data))
    losses = [[line.get("loss") for line in curve(tmp_path / run)[-2:]] for run in ("one", "parts")]
    assert losses[0] == losses[1]


def test_a_curriculum_resumes_in_mid_stage_and_over_its_end_on_more_ranks(
    corpus: Path, tmp_path: Path, ranks: RankPool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(corpus / "data")
    job = train_job(corpus, tmp_path / "one")
    step = job.train.global_batch_size * job.train.seq_len
    copy = str(shutil.copytree(folder, tmp_path / "copy"))
    blend = BlendPart(folder, 1.0), BlendPart(copy, 1.0)
    stages = TrainingStage(5 * step // 2, name="main"), TrainingStage(step, blend, "anneal")
    constant = ScheduleConfig(decay="constant", warmup_steps=2)
    groups = {"data": TrainingData(folder, stages=stages), "schedule": constant}
    train(train_job(corpus, tmp_path / "one", **groups))
    said = capsys.readouterr().out
    assert f"warning: train.steps=6 are {6 * step:,} tokens, data.stages " in said
    assert "stage anneal from sample 20, 28 samples: 50.00% of samples" in said
    parts = train_job(corpus, tmp_path / "parts", **groups)
    train(with_train(parts, steps=2))
    ranks.run(train, 2, with_train(parts, steps=5))
    train(parts)
    losses = [
        [line["loss"] for line in curve(tmp_path / run) if "loss" in line]
        for run in ("one", "parts")
    ]
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(
        ValueError, match="or the data.stages until here, .* is not .*; set run.dir"
    ):
        train(with_train(train_job(corpus, tmp_path / "parts"), steps=7))


def test_sharded_bf16_keeps_the_rotary_tables_in_fp32(
    corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    job = train_job(corpus, tmp_path, parallel=ParallelConfig(dp_replicate=1, dp_shard=2))
    dtypes = ranks.run(rotary_dtypes, 2, with_train(job, precision="bf16"))
    assert dtypes == [{torch.float32}] * 2


def rotary_dtypes(job: TrainJob) -> set[torch.dtype]:
    """What the blocks are given as cosines and sines in a forward pass."""
    seen: set[torch.dtype] = set()
    with open_run(job) as run:
        for block in run.model.blocks.values():
            block.attention.register_forward_pre_hook(
                lambda module, arguments: seen.update(table.dtype for table in arguments[1])
            )
        run.loss(*run.next_batch()[0])
    return seen


def test_bf16_over_tp_differs_from_one_rank_by_rounding(
    corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    job = with_train(train_job(corpus, tmp_path / "one"), precision="bf16", steps=3, eval_every=0)
    train(job)
    many = train_job(corpus, tmp_path / "many", parallel=ParallelConfig(tp=2), train=job.train)
    ranks.run(train, 2, many)
    pairs = zip(curve(tmp_path / "one")[:3], curve(tmp_path / "many")[:3], strict=True)
    for one, found in pairs:
        assert found["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert found["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-2)


def train_and_die_after(job: TrainJob, steps: int) -> None:
    """Take `steps` steps of a longer run, then die without saving the last ones."""
    from megafm.train import loop

    taken = 0

    def dying_step(run: Run, stop: StopSignal) -> dict[str, float]:
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        return train_step(run, stop)

    train_step = loop.train_step
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train_step", dying_step)
        train(job)


def test_uneven_batches_are_refused_with_sizes_that_work(corpus: Path, tmp_path: Path) -> None:
    job = train_job(corpus, tmp_path)
    with pytest.raises(ValueError, match="micro_batch_size=3: .*set train.micro_batch_size=2"):
        train(with_train(job, micro_batch_size=3))
    with pytest.raises(ValueError, match="train.seq_len=65: .*max_seq_len=64"):
        with_train(job, seq_len=65)
    with pytest.raises(ValueError, match="train.steps=0"):
        TrainConfig(steps=0)


def test_values_that_make_no_sense_are_refused_by_field() -> None:
    with pytest.raises(ValueError, match="optim.lr=nan"):
        OptimConfig(lr=math.nan)
    with pytest.raises(ValueError, match="optim.eps=inf"):
        OptimConfig(eps=math.inf)
    with pytest.raises(ValueError, match="schedule.decay_steps=0: set schedule.decay_steps=null"):
        ScheduleConfig(decay_steps=0)


def test_an_infinite_gradient_stops_the_run_before_it_is_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megafm.train.loop.clip_grad_norm", lambda *_: torch.tensor(math.inf))
    with pytest.raises(ValueError, match=r"at step 1 \(grad_norm inf.*set optim.lr=0.001 and run"):
        train(with_train(train_job(corpus, tmp_path), steps=1))
    assert latest(tmp_path) is None


def test_a_checkpoint_of_another_run_is_refused_by_field(corpus: Path, tmp_path: Path) -> None:
    job = train_job(corpus, tmp_path)
    train(job)
    wider = dataclasses.replace(job.model, ffn_dim=96)
    with pytest.raises(ValueError, match="model.ffn_dim=96: .*has 64.*new folder"):
        train(dataclasses.replace(with_train(job, steps=9), model=wider))


def test_metrics_are_plain_json_lines(corpus: Path, tmp_path: Path) -> None:
    train(train_job(corpus, tmp_path))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert latest(tmp_path) is not None

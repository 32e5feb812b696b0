"""A run: everything that the loop needs, opened from a TrainJob, and its checkpoint."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.device_mesh import DeviceMesh

import megafm
from megafm import checkpoint, ops
from megafm.checkpoint import BackgroundSaver, CheckpointInfo
from megafm.checkpoint.info import git_commit
from megafm.checkpoint.store import model_tensors
from megafm.config import config_hash, to_dict, to_yaml
from megafm.data import (
    Batch,
    DataIdentity,
    Samples,
    TokenWindows,
    check_data,
    training_samples,
)
from megafm.data.ahead import Ahead
from megafm.device import device_name, peak_flops, resolve_device, resolve_precision, set_up_cpu
from megafm.files import only_writer
from megafm.model import flops_per_token, num_active_parameters, num_parameters
from megafm.parallel import world
from megafm.parallel.layout import check_micro_batches, resolve_layout
from megafm.parallel.mesh import ParallelConfig, build_mesh, data_share
from megafm.tokenizer import Tokenizer
from megafm.train.assemble import Assembly, assemble
from megafm.train.config import TrainJob
from megafm.train.metrics import MetricsLog

LOCK = ".lock"  # in the run folder: see _only_writer


@dataclasses.dataclass(kw_only=True)
class Training(Assembly, abc.ABC):
    """What a training step reads and changes.

    Attributes:
        mesh: of all ranks; None where there is one.
        step, samples: the position: optimizer steps taken and samples consumed.
    """

    job: TrainJob
    device: torch.device
    precision: torch.dtype
    mesh: DeviceMesh | None
    step: int = 0
    samples: int = 0

    @property
    def tokens(self) -> int:
        return self.samples * self.job.train.seq_len

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.job.model, self.job.train.seq_len)

    @abc.abstractmethod
    def next_batch(self) -> list[tuple[torch.Tensor, ...]]:
        """This rank's share of the next global batch, see `micro_batches`."""


@dataclasses.dataclass(kw_only=True)
class Run(Training):
    """Training on a dataset, recorded in the run folder.

    Attributes:
        training: of which `samples` were consumed.
        token_bytes: (vocab,) how many bytes of text each token stands for.
    """

    training: Samples
    validation: TokenWindows
    token_bytes: torch.Tensor
    tokenizer_hash: str
    data_identity: DataIdentity
    saver: BackgroundSaver | None

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.job.model, self.training.attended_len)

    def next_batch(self) -> list[tuple[torch.Tensor, ...]]:
        index, count = data_share(self.mesh)
        share = self.job.train.global_batch_size // count
        batch = self.training.batch(self.samples + index * share, share)
        self.samples += self.job.train.global_batch_size
        return micro_batches(batch, self.job.train.micro_batch_size, self.device)

    def save(self, *, wait: bool = True) -> None:
        """Write a checkpoint, and return when it is complete if `wait`.

        Raises:
            OSError: this one or, in the background, the one before could not be written.
        """
        info = CheckpointInfo(
            model=self.job.model,
            step=self.step,
            samples=self.samples,
            tokens=self.tokens,
            seq_len=self.job.train.seq_len,
            packing=self.job.data.packing,
            config_hash=config_hash(self.job),
            tokenizer_hash=self.tokenizer_hash,
            snapshot_id=self.data_identity.snapshot_id(self.tokens),
            snapshots=tuple(self.data_identity.folders.values()),
            git_commit=git_commit(),
            megafm_version=megafm.__version__,
            torch_version=torch.__version__,
        )
        if self.saver is None:
            checkpoint.save(self.job.run.dir, self.tensors(), info)
            checkpoint.remove_old(self.job.run.dir, self.job.checkpoint.keep)
        else:
            self.saver.save(self.job.run.dir, self.tensors(), info, self.job.checkpoint.keep)
            if wait:
                self.saver.wait()

    def metrics(self) -> AbstractContextManager[MetricsLog | None]:
        """Rank 0 records; the others have nothing to say."""
        if world.rank() != 0:
            return nullcontext(None)
        peak = peak_flops(self.device, self.precision)
        return MetricsLog(
            Path(self.job.run.dir),
            start_step=self.step,
            total_steps=self.job.train.steps,
            peak_flops=peak * world.world_size() if peak else None,
            config=self.job.logging,
        )

    def say(self, text: str) -> None:
        if world.rank() == 0:
            print(text, flush=True)


def micro_batches(batch: Batch, size: int, device: torch.device) -> list[tuple[torch.Tensor, ...]]:
    """Tokens and targets, (size, seq) int64; of packed documents as one row, (1, size * seq), and
    where they start, cu_seqlens as of `Decoder.forward`."""
    tokens, targets = (torch.from_numpy(x).to(device) for x in (batch.tokens, batch.targets))
    rows = list(zip(tokens.split(size), targets.split(size), strict=True))
    if batch.starts is None:
        return [*rows]
    starts = torch.from_numpy(batch.starts).split(size)
    ends = (torch.cat([s.flatten().nonzero().flatten(), torch.tensor([s.numel()])]) for s in starts)
    return [
        (x.view(1, -1), y.view(1, -1), cu_seqlens.int().to(device))
        for (x, y), cu_seqlens in zip(rows, ends, strict=True)
    ]


@contextlib.contextmanager
def open_run(job: TrainJob) -> Iterator[Run]:
    """Join the world, build or resume the run, and leave the world at the end."""
    device = resolve_device(job.device)
    # Join before anything is checked: of ranks that find the same mistake, one then says it.
    with world.process_group(device, job.parallel.timeout_s):
        _check_same_settings(job)
        precision = resolve_precision(job.train.precision, device)
        parallel = resolve_layout(job.parallel, world.world_size(), job.model, job.train.seq_len)
        check_batch(job, parallel)
        _check_folder(job.run.dir)
        if device.type == "cpu":
            set_up_cpu()
        ops.configure(job.ops)
        mesh = build_mesh(parallel, device.type) if world.world_size() > 1 else None
        with _only_writer(job.run.dir), _saver(job) as saver:
            _check_shared(job.run.dir)
            run = _build(job, device, precision, parallel, mesh, saver)
            world.limit_waits(job.parallel.timeout_s)
            _introduce(run)
            _write_identity(run)
            yield run


def _check_folder(run_dir: str) -> None:
    """Make the run folder, from whichever rank comes first; all of them see that it cannot be."""
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if os.access(run_dir, os.W_OK):
            return
        reason = "not writable"
    raise ValueError(f"run.dir={run_dir}: {reason}; set run.dir to a folder that can be written")


@contextlib.contextmanager
def _only_writer(run_dir: str) -> Iterator[None]:
    """Keep a second run out of the folder while this one lives: rank 0 holds a lock in it."""
    if world.rank() != 0:
        yield
        return
    with only_writer(Path(run_dir) / LOCK, f"run.dir={run_dir}") as lock:
        lock.truncate(0)
        lock.write(secrets.token_hex())  # what _check_shared looks for
        lock.flush()
        os.fsync(lock.fileno())
        yield


def _check_same_settings(job: TrainJob) -> None:
    """Refuse ranks that were started with different settings: each would step its replica of the
    model in its own way, and no collective would tell. Folders may have a name on each host."""
    settings = {
        name: value
        for name, value in to_dict(job).items()
        if name not in ("run", "data", "tokenizer")
    }
    by_rank = world.gather(settings)
    other = _first_other(by_rank)
    if other is not None:
        change = next(_changes(by_rank[0], by_rank[other]))
        raise ValueError(
            f"settings differ from rank 0 to rank {other}: {change}; start every host with the same"
        )


def _check_shared(run_dir: str) -> None:
    """Refuse a run folder that is another one on another host, where a part of each checkpoint
    would stay."""
    world.barrier()  # rank 0 has written the lock
    path = Path(run_dir) / LOCK
    other = _first_other(world.gather(path.read_bytes() if path.exists() else b""))
    if other is not None:
        raise ValueError(
            f"run.dir={run_dir}: not the same folder on rank 0 and rank {other}; set run.dir to a "
            "folder that all hosts share"
        )


def _first_other(values: Sequence[object]) -> int | None:
    """The first rank whose value is not that of rank 0."""
    return next((rank for rank, value in enumerate(values) if value != values[0]), None)


def _saver(job: TrainJob) -> AbstractContextManager[BackgroundSaver | None]:
    if job.checkpoint.asynchronous:
        return BackgroundSaver(job.parallel.timeout_s)
    return nullcontext(None)


def _build(
    job: TrainJob,
    device: torch.device,
    precision: torch.dtype,
    parallel: ParallelConfig,
    mesh: DeviceMesh | None,
    saver: BackgroundSaver | None,
) -> Run:
    tokenizer = Tokenizer.load(job.tokenizer.dir)
    data_identity = check_data(job.data, tokenizer)
    if tokenizer.vocab_size > job.model.vocab_size:
        raise ValueError(
            f"model.vocab_size={job.model.vocab_size}: smaller than the tokenizer's "
            f"{tokenizer.vocab_size}; set model.vocab_size={tokenizer.vocab_size}"
        )
    validation = Path(job.data.dir) / "validation"
    run = Run(
        **assembled(job, device, precision, parallel, mesh, seed=job.train.seed),
        training=Ahead(training_samples(job.data, job.train.seq_len, job.train.seed)),
        validation=TokenWindows(validation, job.train.seq_len, 0, shuffle=False),
        token_bytes=torch.from_numpy(tokenizer.token_bytes()),
        tokenizer_hash=tokenizer.hash,
        data_identity=data_identity,
        saver=saver,
    )
    _resume(run)
    return run


def assembled(
    job: TrainJob,
    device: torch.device,
    precision: torch.dtype,
    parallel: ParallelConfig,
    mesh: DeviceMesh | None,
    *,
    seed: int | None,
) -> dict[str, Any]:
    """The fields of a `Training` at its start; see `assemble`."""
    assembly = assemble(
        job.model,
        job.optim,
        parallel,
        mesh,
        device=device,
        precision=precision,
        recomputed=job.train.recomputed,
        seq_len=job.train.seq_len,
        seed=seed,
    )
    settings = {"job": job, "device": device, "precision": precision, "mesh": mesh}
    return vars(assembly) | settings


def _resume(run: Run) -> None:
    """Load the latest checkpoint of the run folder, if any, and check that it is of this run."""
    folder = checkpoint.latest(run.job.run.dir)
    start = (folder and folder.name, run.tokenizer_hash, run.data_identity.stages)
    starts = world.gather(start)
    other = _first_other(starts)
    if other is not None:
        raise ValueError(
            f"run.dir, tokenizer.dir, data.dir: rank 0 finds {starts[0]} there, rank {other} "
            f"{starts[other]}; give every host the same files"
        )
    if folder is None:
        return
    info = CheckpointInfo.read(folder)
    fresh = "set run.dir to a new folder to start afresh"
    for name, value in to_dict(info.model).items():
        wanted = to_dict(run.job.model)[name]
        if value != wanted:
            raise ValueError(
                f"model.{name}={wanted}: {folder} has {value}; {fresh}, or set it back"
            )
    if info.tokenizer_hash not in (None, run.tokenizer_hash):
        raise ValueError(
            f"tokenizer.dir={run.job.tokenizer.dir}: its hash {run.tokenizer_hash[:12]} is not "
            f"{str(info.tokenizer_hash)[:12]}, which {folder} was trained with; {fresh}"
        )
    snapshot_id = run.data_identity.snapshot_id(info.tokens)
    if info.snapshot_id not in (None, snapshot_id):
        raise ValueError(
            f"data.dir={run.job.data.dir}: its snapshot, with data.blend or the data.stages until "
            f"here, {snapshot_id[:12]} is not {str(info.snapshot_id)[:12]}, which {folder} was "
            f"trained on; {fresh}"
        )
    packing = run.job.data.packing
    if info.samples and info.packing != packing:
        raise ValueError(
            f"data.packing={packing}: {folder} was trained with {info.packing}, whose samples are "
            f"others; {fresh}, or set it back"
        )
    if info.samples and packing != "stream" and info.seq_len != run.job.train.seq_len:
        raise ValueError(
            f"train.seq_len={run.job.train.seq_len}: {folder} was trained with {info.seq_len}, and "
            f"data.packing={packing} makes other samples of each length; {fresh}, or set it back"
        )
    # A converted model, at step 0, has parameters alone.
    checkpoint.load_tensors(folder, run.tensors() if info.step else model_tensors(run.model))
    run.step, run.samples = info.step, info.samples
    if info.seq_len != run.job.train.seq_len and info.seq_len:
        run.samples = -(-info.tokens // run.job.train.seq_len)
        run.say(f"train.seq_len was {info.seq_len}: samples are counted anew from the tokens seen")
    run.say(f"resumed from {folder}")


def check_batch(job: TrainJob, parallel: ParallelConfig) -> None:
    batch, micro = job.train.global_batch_size, job.train.micro_batch_size
    ranks = parallel.dp_replicate * parallel.dp_shard
    if batch % ranks:
        raise ValueError(
            f"train.global_batch_size={batch}: not a multiple of the {ranks} data-parallel ranks; "
            f"set train.global_batch_size={-(-batch // ranks) * ranks}"
        )
    share = batch // ranks
    if share > micro and share % micro:
        works = max(n for n in range(1, micro + 1) if share % n == 0)
        raise ValueError(
            f"train.micro_batch_size={micro}: does not divide a rank's {share} samples; "
            f"set train.micro_batch_size={works}"
        )
    check_micro_batches(parallel, share, min(micro, share))


def _write_identity(run: Run) -> None:
    """config.yaml and the tokenizer into the run folder; a different config is kept beside."""
    if world.rank() != 0:
        return
    folder = Path(run.job.run.dir)
    path = folder / "config.yaml"
    text = f"# sha256 {config_hash(run.job)}\n{to_yaml(run.job)}"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        for line in _changes(yaml.safe_load(path.read_text(encoding="utf-8")), to_dict(run.job)):
            run.say(f"config changed since the last start: {line}")
        os.replace(path, folder / f"config.before_step_{run.step:08d}.yaml")
    path.write_text(text, encoding="utf-8")
    target = folder / "tokenizer"
    if not (target.exists() and target.samefile(run.job.tokenizer.dir)):
        shutil.copytree(run.job.tokenizer.dir, target, dirs_exist_ok=True)


def _changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    for key in new:
        before, after = (old or {}).get(key), new[key]
        if isinstance(after, dict) and isinstance(before, dict):
            yield from _changes(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before} -> {after}"


def _introduce(run: Run) -> None:
    job, peak = run.job, peak_flops(run.device, run.precision)
    dtype = str(run.precision).removeprefix("torch.")
    stated = f"{peak / 1e12:,.0f} TFLOP/s a device" if peak else "n/a"
    epochs = run.training.epochs(job.train.steps * job.train.global_batch_size)
    mflops = run.flops_per_token / 1e6
    folders = ", ".join(job.data.folders)
    active = f", {num_active_parameters(job.model):,} of them active" if job.model.moe else ""
    run.say(
        f"model {num_parameters(job.model):,} parameters{active}, {mflops:,.0f} MFLOP/token\n"
        f"ranks {world.world_size()} on {device_name(run.device)}, {dtype}, peak {stated}\n"
        f"data {folders}: {job.train.steps} steps of {job.train.global_batch_size} x "
        f"{job.train.seq_len} tokens are {epochs}"
    )
    planned = sum(stage.tokens for stage in job.data.stages)
    tokens = job.train.steps * job.train.global_batch_size * job.train.seq_len
    if planned and not 0.99 < tokens / planned < 1.01:
        run.say(
            f"warning: train.steps={job.train.steps} are {tokens:,} tokens, data.stages "
            f"{planned:,}: "
            + ("the last stage goes on" if tokens > planned else "what is left is not reached")
        )
    if job.schedule.warmup_steps >= job.train.steps:
        run.say(
            f"warning: schedule.warmup_steps={job.schedule.warmup_steps} is not over by "
            f"train.steps={job.train.steps}, so the learning rate never decays"
        )
